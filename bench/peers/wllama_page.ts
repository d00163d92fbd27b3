/** wllama in a page: the same prompts and tokens as ours, by its low-level API. */
import type { PeerRun } from "../../tools/bench/schema.ts";
import { timePeer } from "./time_peer.ts";

/** What is called of `@wllama/wllama` 2.3.1. */
interface Wllama {
  loadModel(blobs: Blob[], options: { n_ctx: number; n_threads: number; n_batch: number }): Promise<void>;
  kvClear(): Promise<void>;
  decode(tokens: number[], options: object): Promise<unknown>;
  samplingInit(options: { temp: number }): Promise<void>;
  samplingSample(): Promise<{ token: number }>;
  getNumThreads(): number;
  exit(): Promise<void>;
}

/** Where things lie on the machine that serves the page, and what to run. */
export interface Argument {
  readonly package: string;
  readonly model: string;
  readonly threads: number;
  readonly reps: number;
}

/** Rows of prompts of 128 and 512 tokens and of 64 generated ones. */
export async function main(argument: Argument): Promise<Pick<PeerRun, "threads" | "rows">> {
  const at = (path: string): string => `/fs${argument.package}/esm/${path}`;
  const { Wllama } = await import(at("index.js")) as {
    Wllama: new (paths: object, options: object) => Wllama;
  };
  const silent = { debug() {}, log() {}, warn() {}, error() {} };
  const wllama = new Wllama({
    "single-thread/wllama.wasm": at("single-thread/wllama.wasm"),
    "multi-thread/wllama.wasm": at("multi-thread/wllama.wasm"),
  }, { logger: silent });
  const blob = await (await fetch(`/fs${argument.model}`)).blob();
  await wllama.loadModel([blob], { n_ctx: 1024, n_threads: argument.threads, n_batch: 512 });
  await wllama.samplingInit({ temp: 0 });
  const tokens = (n: number): number[] => Array.from({ length: n }, (_, i) => 1000 + i * 37 % 4000);
  const prompt = async (n: number): Promise<number> => {
    await wllama.kvClear();
    const began = performance.now();
    await wllama.decode(tokens(n), {});
    return n / (performance.now() - began) * 1000;
  };
  const generate = async (n: number): Promise<number> => {
    await wllama.kvClear();
    await wllama.decode(tokens(16), {});
    const began = performance.now();
    for (let i = 0; i < n; i++) await wllama.decode([(await wllama.samplingSample()).token], {});
    return n / (performance.now() - began) * 1000;
  };
  const rows = await timePeer(prompt, generate, argument.reps);
  const threads = wllama.getNumThreads();
  await wllama.exit();
  return { threads, rows };
}
