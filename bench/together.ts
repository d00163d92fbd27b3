/**
 * `deno run -A bench/together.ts [-m MODEL | --shape tiny] [--dtype D] [--kernels K] [--recipe FILE --sparsity 0,0.5] [--reps N]`, or with bun or node:
 * a token of each of 1 to 8 sequences, in turns and in one pass, one thread. Both ways take turns, and times are the processor's, so that a busy machine's
 * ratios hold; medians. The logits are compared too: they have to be the same to the bit.
 */
import assert from "node:assert/strict";
import process from "node:process";
import { parseArgs } from "node:util";
import { syntheticRecipe } from "../src/cli/bench/recipes.ts";
import { syntheticModel } from "../src/cli/bench/synthetic_model.ts";
import { type LoadedRecipe, type LoadOptions, Model, type Session } from "../src/mod.ts";
import { TINY } from "./shapes.ts";
import { engineName } from "./timing.ts";

const { values } = parseArgs({
  options: {
    model: { type: "string", short: "m", default: "smollm2" },
    shape: { type: "string" },
    dtype: { type: "string", default: "auto" },
    kernels: { type: "string", default: "auto" },
    recipe: { type: "string" },
    sparsity: { type: "string", default: "0" },
    reps: { type: "string", default: "15" },
  },
});
const PROMPT = 48, reps = Number(values.reps);

async function open(): Promise<Model> {
  const options = { threads: 1, dtype: values.dtype, kernels: values.kernels } as LoadOptions;
  if (values.shape === undefined) {
    return await Model.load(values.model, { ...options, recipe: values.recipe });
  }
  const { files } = syntheticModel("tiny", TINY, "int8", TINY.numHiddenLayers);
  const plain = await Model.load(files, options), signal = new AbortController().signal;
  const recipe: LoadedRecipe = await syntheticRecipe(plain, 0.5, signal);
  await plain.close();
  return await Model.load(files, { ...options, recipe });
}

const model = await open(), { info, engine } = model;
console.log(`${model.name}, ${info.kernels}, ${JSON.stringify(info.storage)}, ${engineName()}`);
let inOnePass = false;
// the product would choose by what it measures
engine.paceOf = () => ({ together: inOnePass, note() {} }) as unknown as ReturnType<typeof engine.paceOf>;

async function time(sessions: readonly Session[], id: number, way: boolean): Promise<[number, Float32Array]> {
  inOnePass = way;
  const began = process.cpuUsage();
  const found = await model.decodeTogether(sessions.map((session, i) => ({ session, id: id + i })));
  const { user, system } = process.cpuUsage(began);
  return [(user + system) / 1000, found.at(-1) as Float32Array];
}

const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1]!;
for (const sparsity of values.sparsity.split(",").map(Number)) {
  for (const n of [1, 2, 4, 8]) {
    const sessions = Array.from({ length: n }, (_, i) => {
      const session = model.session({ sparsity });
      session.advance(Array.from({ length: PROMPT }, (_, t) => 10 + (t * 37 + i) % 4000));
      return session;
    });
    const turns: number[] = [], pass: number[] = [];
    for (let rep = -3; rep < reps; rep++) {
      const logits: Float32Array[] = [];
      for (const way of rep % 2 === 0 ? [false, true] : [true, false]) {
        const [ms, last] = await time(sessions, 100 + rep, way);
        if (rep >= 0) (way ? pass : turns).push(ms);
        logits.push(last);
        for (const session of sessions) session.truncate(PROMPT);
      }
      assert.deepEqual(logits[0], logits[1]);
    }
    const [a, b] = [median(turns) / n, median(pass) / n];
    console.log(
      `sparsity ${sparsity}, ${n} sequences: in turns ${a.toFixed(2)} ms a token, in one pass ${
        b.toFixed(2)
      },`,
      `${(a / b).toFixed(2)} times as fast`,
    );
  }
}
process.exit(0);
