/** Micro-benchmarks in a page. */
import { loadKernelModule } from "../../src/kernels/probe.ts";
import type { MicroCase } from "../../tools/bench/schema.ts";
import { type Exports, microCases, microMemory } from "./cases.ts";
import { timeCases } from "./own.ts";

/** Times every case of a build. */
export async function main(
  { build, samples }: { readonly build: "baseline" | "relaxed"; readonly samples: number },
): Promise<MicroCase[]> {
  const memory = microMemory();
  const { exports } = await WebAssembly.instantiate(await loadKernelModule(build), { env: { memory } });
  return timeCases(microCases(exports as unknown as Exports, memory), samples);
}
