/** The kernels of a compiled WebAssembly module, behind the {@linkcode Kernels} interface. */
import type { StorageType } from "../format/checkpoint.ts";
import type { Kernels } from "./kernels.ts";

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
 * @param module a build of `assembly/index.ts`
 * @param memory plain (not shared), with at least one page; it may be grown at any time
 */
export async function createWasmKernels(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  options: WasmKernelOptions = {},
): Promise<Kernels> {
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  return kernelsOf(exports, memory, options);
}

/** The same of a module that someone else has instantiated on this memory. */
export function kernelsOf(
  exports: WebAssembly.Exports,
  memory: WebAssembly.Memory,
  options: WasmKernelOptions = {},
): Kernels {
  const functions: { [name: string]: unknown } = {};
  for (const [name, value] of Object.entries(exports)) {
    if (typeof value === "function") functions[camelCase(name)] = value;
  }
  if (options.touch === "plain") {
    functions.gemvGroupI4List = functions.gemvGroupI4ListPlain;
    functions.gemvChannelsI8 = functions.gemvChannelsI8Six;
  }
  const dequantize = (type: StorageType, y: number, blocks: number, n: number): number =>
    (functions[camelCase(`dequantize_${type.toLowerCase()}`)] as (
      y: number,
      blocks: number,
      n: number,
    ) => number)(y, blocks, n);
  const build = (exports["IS_RELAXED"] as WebAssembly.Global).value === 1 ? "relaxed" : "baseline";
  // every export is the interface's method of that name with the same arguments; tests/kernels calls each of them
  return { ...functions, build, memory, dequantize } as unknown as Kernels;
}

function camelCase(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase());
}
