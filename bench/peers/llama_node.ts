/** `llama_node.ts PACKAGE MODEL THREADS REPS`: node-llama-cpp on Node, the same prompts and tokens as ours. Prints one line of JSON. */
import process from "node:process";
import { pathToFileURL } from "node:url";
import { timePeer } from "./time_peer.ts";

/** What is called of node-llama-cpp 3.22.1. */
interface Sequence {
  clearHistory(): Promise<void>;
  evaluateWithoutGeneratingNewTokens(tokens: readonly number[]): Promise<void>;
  evaluate(
    tokens: readonly number[],
    options: { temperature: number; yieldEogToken: boolean },
  ): AsyncGenerator<number>;
}
interface Llama {
  loadModel(options: { modelPath: string; gpuLayers: number }): Promise<{
    createContext(
      options: { contextSize: number; batchSize: number; threads: number },
    ): Promise<{ getSequence(): Sequence; readonly currentThreads: number }>;
  }>;
}

const [folder, modelPath, threads, reps] = process.argv.slice(2) as [string, string, string, string];
const { getLlama } = await import(pathToFileURL(`${folder}/dist/index.js`).href) as {
  getLlama(options: object): Promise<Llama>;
};
// never compiles anything: what npm installed, or nothing
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: Number(threads) });
const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads: Number(threads) });
const sequence = context.getSequence();
const tokens = (n: number): number[] => Array.from({ length: n }, (_, i) => 1000 + i * 37 % 4000);

async function prompt(n: number): Promise<number> {
  await sequence.clearHistory();
  const began = performance.now();
  await sequence.evaluateWithoutGeneratingNewTokens(tokens(n));
  return n / (performance.now() - began) * 1000;
}

/** Generated tokens after the first, which comes with the prompt; it may end before `n`. */
async function generate(n: number): Promise<number> {
  await sequence.clearHistory();
  let began = 0, count = -1;
  for await (const _ of sequence.evaluate(tokens(16), { temperature: 0, yieldEogToken: true })) {
    if (count++ < 0) began = performance.now();
    if (count === n) break;
  }
  if (count < 8) throw new Error(`the model ended after ${count + 1} tokens: too few to time`);
  return count / (performance.now() - began) * 1000;
}

const rows = await timePeer(prompt, generate, Number(reps));
console.log(JSON.stringify({ threads: context.currentThreads, rows }));
process.exit(0);
