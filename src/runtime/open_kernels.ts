/** What a model computes with: a kernel build, the memory it links with, and threads. */
import type { Arena } from "../kernels/arena.ts";
import type { Kernels } from "../kernels/kernels.ts";
import {
  chooseBuild,
  type KernelChoice,
  loadKernelModule,
  newMemory,
  noSharedMemoryReason,
  withSharedMemory,
} from "../kernels/probe.ts";
import { MAX_THREADS, Team } from "../kernels/team.ts";
import { createWasmKernels, type WasmKernelOptions, type WasmKernels } from "../kernels/wasm_kernels.ts";
import type { Platform } from "../platform/platform.ts";
import type { Workspace } from "./workspace.ts";

/** What `LoadOptions.kernels` may be. */
export type KernelSource = KernelChoice | "reference" | WebAssembly.Module | Uint8Array;

/** Most threads of `auto`: past these, steps of a token are too short to be shared out. */
const MAX_AUTO = 8;

/** How memory is touched ahead: `WasmKernelOptions.touch`. */
type Touch = NonNullable<WasmKernelOptions["touch"]>;

/** Makes kernels of one build, and the threads that run them. */
export interface KernelFactory {
  /** A memory that they link with: shared if there will be threads. */
  newMemory(): WebAssembly.Memory;
  create(memory: WebAssembly.Memory, touch: Touch): Promise<Kernels>;
  /** Starts the threads there can be for kernels that `create` made. */
  startTeam(kernels: Kernels, touch: Touch, arena: Arena, workspace: Workspace): Promise<Team>;
}

/**
 * Finds out what there can be.
 *
 * @param threads as many as are asked for; `auto`: one for each processor, or one where one of them does not start
 * @throws {RangeError} If the build can't run here; `WebAssembly.LinkError` if `source` is no build of the kernels.
 */
export async function openKernels(
  source: KernelSource,
  threads: number | "auto",
  platform: Platform,
): Promise<KernelFactory> {
  if (source === "reference") {
    const { createReferenceKernels } = await import("../kernels/reference_kernels.ts");
    const reason = threads === 1 ? null : "the reference kernels compute on one thread";
    return {
      newMemory: () => newMemory(false),
      create: (memory) => Promise.resolve(createReferenceKernels(memory)),
      startTeam: (kernels, _, __, workspace) =>
        Promise.resolve(Team.alone(kernels, workspace.scratch, reason)),
    };
  }
  const isAuto = threads === "auto";
  const wanted = isAuto ? Math.min(platform.processors(), MAX_AUTO) : Math.min(threads, MAX_THREADS);
  let reason = wanted > 1
    ? noSharedMemoryReason() ?? (platform.startWorker ? null : "this runtime has no workers")
    : isAuto
    ? "there is one processor"
    : null;
  const share = wanted > 1 && reason === null;
  const [module, shared] = typeof source === "string"
    ? [await loadKernelModule(chooseBuild(source as KernelChoice), share), share]
    : await moduleOf(source, share);
  if (share && !shared) {
    reason = "the kernels given link with plain memory: for threads give build/kernels.*.shared.wasm";
  }
  return {
    newMemory: () => newMemory(shared),
    create: (memory, touch) => createWasmKernels(module, memory, { touch }),
    async startTeam(kernels, touch, arena, workspace) {
      if (!share || !shared) return Team.alone(kernels, workspace.scratch, reason);
      try {
        return await Team.start({
          kernels: kernels as WasmKernels,
          module,
          kernelOptions: { touch },
          scratch: workspace.scratch,
          scratchBytes: workspace.scratchBytes,
          allocate: (bytes) => arena.allocate(bytes),
          threads: wanted,
          startWorker: platform.startWorker!,
        });
      } catch (error) {
        if (!isAuto) throw error;
        return Team.alone(kernels, workspace.scratch, String(error instanceof Error ? error.message : error));
      }
    },
  };
}

/** Bytes can be made to link with shared memory; of a compiled module only linking tells which kind it wants. */
async function moduleOf(
  source: WebAssembly.Module | Uint8Array,
  share: boolean,
): Promise<[module: WebAssembly.Module, shared: boolean]> {
  const bytes = source as Uint8Array<ArrayBuffer>;
  const module = source instanceof WebAssembly.Module
    ? source
    : await WebAssembly.compile(share ? withSharedMemory(bytes) : bytes);
  let failure: unknown;
  for (const shared of [share, !share]) {
    if (shared && noSharedMemoryReason() !== null) continue;
    try {
      await WebAssembly.instantiate(module, { env: { memory: newMemory(shared) } });
      return [module, shared];
    } catch (error) {
      failure ??= error;
    }
  }
  throw failure;
}
