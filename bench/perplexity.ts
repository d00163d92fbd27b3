/**
 * `deno run -A bench/perplexity.ts --data FILE [-m MODEL] [--dtype D] [--kernels K] [--kv KV] [--recipe R] [--pass decode|prefill] [--pieces N] [--workers N]`:
 * perplexity of a text cut into pieces of 1,024 tokens, no BOS, the first token of a piece not scored. `decode` runs token by token, but
 * for the first of each piece, which generation takes the way of prompts; `prefill` as prompts, with a recipe sparse ones. The pieces are shared among processes, so
 * that a machine with many cores has the whole of WikiText-2 in minutes. Prints one line of JSON.
 */
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import process from "node:process";
import { parseArgs, promisify } from "node:util";
import { gunzip } from "node:zlib";
import { Model } from "../src/mod.ts";

const PIECE = 1024;

interface Sum {
  readonly nll: number;
  readonly tokens: number;
}

const { values } = parseArgs({
  options: {
    model: { type: "string", short: "m", default: "smollm2" },
    data: { type: "string" },
    recipe: { type: "string" },
    dtype: { type: "string", default: "auto" },
    kernels: { type: "string", default: "auto" },
    kv: { type: "string", default: "f32" },
    pass: { type: "string", default: "decode" },
    pieces: { type: "string", default: "Infinity" },
    workers: { type: "string", default: "1" },
    worker: { type: "string" },
  },
});

if (values.worker !== undefined) console.log(JSON.stringify(await score(Number(values.worker))));
else {
  const workers = Number(values.workers);
  const sums = await Promise.all(Array.from({ length: workers }, (_, i) => inProcess(i)));
  const nll = sums.reduce((sum, part) => sum + part.nll, 0);
  const tokens = sums.reduce((sum, part) => sum + part.tokens, 0);
  const { model, recipe, dtype, kernels, kv, pass, pieces } = values;
  console.log(
    JSON.stringify({
      model,
      recipe,
      dtype,
      kernels,
      kv,
      pass,
      pieces,
      tokens,
      perplexity: Math.exp(nll / tokens),
    }),
  );
}

/** Every `workers`-th piece from the first, scored by another process. */
async function inProcess(first: number): Promise<Sum> {
  const [program = process.execPath] = process.argv;
  const args = [...process.execArgv, ...process.argv.slice(1), "--worker", String(first)];
  const isDeno = "deno" in process.versions;
  const child = spawn(program, isDeno ? ["run", "-A", "--no-check", ...args] : args, {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  for await (const chunk of child.stdout) text += chunk;
  if (text === "") throw new Error(`the process for piece ${first} failed: its message is above`);
  return JSON.parse(text);
}

async function score(first: number): Promise<Sum> {
  if (values.data === undefined) throw new Error("--data FILE is needed: a text, or one packed by gzip");
  const file = await readFile(values.data);
  const bytes = values.data.endsWith(".gz") ? await promisify(gunzip)(file) : file;
  const model = await Model.load(values.model, {
    dtype: values.dtype as "auto",
    kernels: values.kernels as "auto",
    kv: values.kv as "f32",
    threads: 1,
    recipe: values.recipe,
  });
  const ids = model.description.tokenizer.encode(new TextDecoder().decode(bytes));
  const session = model.session(), step = Number(values.workers);
  const count = Math.min(Math.ceil(ids.length / PIECE), Number(values.pieces));
  let nll = 0, tokens = 0;
  for (let p = first; p < count; p += step) {
    const piece = ids.slice(p * PIECE, (p + 1) * PIECE);
    session.truncate(0);
    const add = (t: number, logits: Float32Array): void => {
      if (t + 1 >= piece.length) return;
      nll -= logProbability(logits, piece[t + 1]!);
      tokens++;
    };
    if (values.pass === "prefill") session.prefillAll(piece, add, { prefill: "sparse" });
    else piece.forEach((id, t) => add(t, t === 0 ? session.prefill([id]) : session.decode(id)));
  }
  await model.close();
  return { nll, tokens };
}

function logProbability(logits: Float32Array, id: number): number {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - largest);
  return logits[id]! - largest - Math.log(sum);
}
