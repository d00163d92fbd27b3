/** The kernels of a compiled WebAssembly module, behind the {@linkcode Kernels} interface. */
import type { BlockType } from "../format/checkpoint.ts";
import type { Kernels } from "./kernels.ts";

/** What `assembly/team.ts` adds; its docs say what each does. */
export interface WasmKernels extends Kernels {
  teamSpin(word: number, value: number, spins: number): number;
  teamRun(
    control: number,
    threads: number,
    job: number,
    parts: number,
    scratch: number,
    spins: number,
  ): number;
  teamWait(control: number, parts: number, spins: number): number;
}

/** Settings that depend on the engine rather than on the build. */
export interface WasmKernelOptions {
  /**
   * How the int4 stream touches memory ahead: V8 15 drops plain loads, JavaScriptCore's atomic loads are slow. `plain` also takes the int8
   * kernel with fewer channels at a time, for an engine that is short of registers.
   */
  readonly touch?: "atomic" | "plain";
}

/**
 * Instantiates a kernel module on a memory.
 *
 * @param module a build of `assembly/`
 * @param memory shared or not, as the build is, with at least one page; it may be grown at any time
 */
export async function createWasmKernels(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  options: WasmKernelOptions = {},
): Promise<WasmKernels> {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  return kernelsOf(exports, memory, options);
}

/** The same of a module that someone else has instantiated on this memory. */
export function kernelsOf(
  exports: WebAssembly.Exports,
  memory: WebAssembly.Memory,
  options: WasmKernelOptions = {},
): WasmKernels {
  const exported: { [name: string]: unknown } = {};
  for (const [name, value] of Object.entries(exports)) {
    if (typeof value === "function") exported[camelCase(name)] = value;
  }
  const functions = methodsOf(exported, options);
  const dequantize = (type: BlockType, y: number, blocks: number, n: number): number =>
    (functions[camelCase(`dequantize_${type.toLowerCase()}`)] as (
      y: number,
      blocks: number,
      n: number,
    ) => number)(y, blocks, n);
  const build = (exports["IS_RELAXED"] as WebAssembly.Global).value === 1 ? "relaxed" : "baseline";
  // every export is the interface's method of that name with the same arguments; tests/kernels calls each of them
  return { ...functions, build, memory, dequantize } as unknown as WasmKernels;
}

/** A kernel for each method: what `options` choose takes the place of what has the method's name. */
export function methodsOf<T>(
  kernels: { readonly [name: string]: T },
  options: WasmKernelOptions,
): { readonly [name: string]: T } {
  if (options.touch !== "plain") return kernels;
  return {
    ...kernels,
    gemvGroupI4List: kernels["gemvGroupI4ListPlain"]!,
    gemvChannelsI8: kernels["gemvChannelsI8Six"]!,
  };
}

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase());
}
