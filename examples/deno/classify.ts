/**
 * Puts each line of stdin into one of some classes: writes the class, a tab and the line. Nothing is generated: the class is the one that the model finds most likely as the
 * answer, against how likely it is without the line. All that it may do is read the model:
 *
 *     printf 'I love this film\nThe train was late again\n' |
 *       deno run --allow-read=models/tiny.rsparse examples/deno/classify.ts good bad
 */
import { Model, type Session } from "rsparse";
import { TextLineStream } from "./lines.ts";

const classes = Deno.args;
if (classes.length < 2) {
  console.error("usage: classify.ts CLASS CLASS … < LINES");
  Deno.exit(2);
}
await using model = await Model.load("tiny");

/** Ids of the question about a line, up to where the answer begins. */
function question(line: string): number[] {
  return model.tokenize(`Text: ${line}\nThe text is one of ${classes.join(", ")}. It is`);
}

/** The mean of ln p of each class's tokens after what the session holds; the session is then as before. */
async function likelihoods(session: Session, last: Float32Array): Promise<number[]> {
  const answers = classes.map((name) => model.tokenize(` ${name}`)),
    sums = answers.map((ids) => lnP(last, ids[0]!));
  const branches = answers.map((ids) => ({ ids, from: 0, sparseFrom: 0 }));
  await session.branchAsync(branches, (b, i, logits) => {
    const next = answers[b]![i + 1];
    if (next !== undefined) sums[b] = sums[b]! + lnP(logits, next);
  });
  return sums.map((sum, b) => sum / answers[b]!.length);
}

function lnP(logits: Float32Array, id: number): number {
  const most = logits.reduce((a, b) => Math.max(a, b)),
    sum = logits.reduce((all, v) => all + Math.exp(v - most), 0);
  return logits[id]! - most - Math.log(sum);
}

/** How likely each class is after a question. */
async function score(ids: readonly number[]): Promise<number[]> {
  using session = model.session({ sparsity: 0.5 });
  return await likelihoods(session, await session.prefillAsync(ids));
}

// what the model says of no text at all, which is its own inclination
const before = await score(question("")),
  room = model.config.maxPositionEmbeddings - question("").length - 16;
for await (
  const line of Deno.stdin.readable.pipeThrough(new TextDecoderStream()).pipeThrough(new TextLineStream())
) {
  if (line.trim() === "") continue;
  const ids = model.tokenize(line), short = ids.length > room ? model.detokenize(ids.slice(0, room)) : line;
  const gains = (await score(question(short))).map((likelihood, b) => likelihood - before[b]!);
  console.log(`${classes[gains.indexOf(Math.max(...gains))]}\t${line}`);
}
