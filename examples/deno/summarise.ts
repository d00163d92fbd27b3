/**
 * Summarises a text file with the embedded model, as it is written. All that it may do is read that file and the model:
 *
 *     deno run --allow-read=models/tiny.rsparse,README.md examples/deno/summarise.ts README.md
 */
import { Model } from "rsparse";

const [path] = Deno.args;
if (path === undefined) {
  console.error("usage: summarise.ts FILE");
  Deno.exit(2);
}
const text = await Deno.readTextFile(path);
await using model = await Model.load("tiny");

/** What is asked, with so much of the text. */
const asked = (
  part: string,
) => [{ role: "user", content: `Summarize this text in two sentences.\n\n${part}` }];
/** Tokens of the answer, and of what the template puts around it. */
const ANSWER = 96, TEMPLATE = 64;

// the beginning of a text says most of what it is about: as much of it as the context holds
const room = model.config.maxPositionEmbeddings - ANSWER - TEMPLATE;
const ids = model.tokenize(text), part = ids.length <= room ? text : model.detokenize(ids.slice(0, room));
if (part !== text) console.error(`the first ${room} of ${ids.length} tokens are read`);

const encoder = new TextEncoder();
for await (const piece of model.chat(asked(part), { sparsity: 0.5, maxTokens: ANSWER, repeatPenalty: 1.1 })) {
  await Deno.stdout.write(encoder.encode(piece.text));
}
console.log();
