/** A team of threads on a memory of its own. */
import { chooseBuild, loadKernelModule, newMemory } from "../../src/kernels/probe.ts";
import { Team, type TeamOptions } from "../../src/kernels/team.ts";
import { createWasmKernels, type WasmKernels } from "../../src/kernels/wasm_kernels.ts";
import { detectPlatform } from "../../src/platform/detect.ts";

const platform = await detectPlatform();

/** Kernels, a team on their memory, and what hands the memory out. */
export interface OpenTeam {
  readonly kernels: WasmKernels;
  readonly team: Team;
  readonly allocate: (bytes: number) => number;
}

/** Starts `threads` threads; 1 is the caller alone, on the same build and memory. */
export async function openTeam(
  threads: number,
  options: Partial<Pick<TeamOptions, "startWorker" | "startMs" | "patience">> = {},
): Promise<OpenTeam> {
  const memory = newMemory(true);
  const kernelOptions = { touch: platform.runtime.startsWith("bun") ? "plain" : "atomic" } as const;
  const module = await loadKernelModule(chooseBuild("auto"), true);
  const kernels = await createWasmKernels(module, memory, kernelOptions);
  let top = kernels.heapBase();
  const allocate = (bytes: number): number => {
    const at = top;
    top += Math.ceil(bytes / 64) * 64;
    const missing = top + 4096 - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    return at;
  };
  const scratchBytes = 4096, scratch = allocate(scratchBytes);
  const team = threads === 1 ? Team.alone(kernels, scratch) : await Team.start({
    kernels,
    module,
    allocate,
    scratch,
    scratchBytes,
    threads,
    kernelOptions,
    startWorker: platform.startWorker!,
    ...options,
  });
  return { kernels, team, allocate };
}
