/** Which kernel builds this runtime can run, and their compiled modules. */
import { fromBase64 } from "../format/base64.ts";

/** 4 GiB. */
const MAX_PAGES = 65536;
// The import section of every build: one import, env.memory, of at least one page; shared ones name their maximum too.
const PLAIN_IMPORT = "\x02\x0f\x01\x03env\x06memory\x02\x00\x01";
const SHARED_IMPORT = "\x02\x12\x01\x03env\x06memory\x02\x03\x01\x80\x80\x04";

/** A build that can be chosen; `auto` takes the fastest that validates. */
export type KernelChoice = "auto" | "baseline" | "relaxed";

// (func (result v128) (i8x16.relaxed_swizzle (i8x16.splat (i32.const 1)) (i8x16.splat (i32.const 2)))); wasm-feature-detect's
// relaxedSimd() is the same probe, but asynchronous and a dependency of the core for one line.
// deno-fmt-ignore
const RELAXED_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0,
  65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
]);

/** Whether this runtime has relaxed SIMD: Node 20 only with `--experimental-wasm-relaxed-simd`, WebKit not yet. */
export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(RELAXED_PROBE);
}

/** The build that `choice` means here. @throws {RangeError} If relaxed SIMD is asked for and missing. */
export function chooseBuild(choice: KernelChoice): "baseline" | "relaxed" {
  if (choice === "baseline") return choice;
  if (choice !== "auto" && choice !== "relaxed") {
    throw new RangeError(`kernels: ${choice} found, auto, baseline or relaxed wanted`);
  }
  const relaxed = hasRelaxedSimd();
  if (choice === "relaxed" && !relaxed) {
    throw new RangeError(
      "Cannot use relaxed kernels: this runtime has no relaxed SIMD: use baseline or auto",
    );
  }
  return relaxed ? "relaxed" : "baseline";
}

/** Why no memory can be shared between threads here; null: it can. */
export function noSharedMemoryReason(): string | null {
  if (typeof SharedArrayBuffer === "undefined") {
    return globalThis.crossOriginIsolated === false
      ? "the page is not cross-origin isolated: serve it with COOP and COEP headers"
      : "this runtime has no shared memory";
  }
  try {
    newMemory(true);
    return null;
  } catch (error) {
    return `this runtime gives no shared memory: ${error instanceof Error ? error.message : error}`;
  }
}

/** A memory for a model: up to 4 GiB, which is only reserved. */
export function newMemory(shared: boolean): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: 1, maximum: MAX_PAGES, shared });
}

const compiled = new Map<string, Promise<WebAssembly.Module>>();

/** The compiled module of a build, for plain or shared memory; compiled once, its bytes are imported only when asked for. */
export function loadKernelModule(
  build: "baseline" | "relaxed",
  shared: boolean = false,
): Promise<WebAssembly.Module> {
  const key = `${build} ${shared}`;
  let module = compiled.get(key);
  if (module === undefined) compiled.set(key, module = compile(build, shared));
  return module;
}

async function compile(build: "baseline" | "relaxed", shared: boolean): Promise<WebAssembly.Module> {
  const { default: base64 } = build === "relaxed"
    ? await import("../../build/kernels_relaxed.js")
    : await import("../../build/kernels_baseline.js");
  const bytes = fromBase64(base64);
  return WebAssembly.compile(shared ? withSharedMemory(bytes) : bytes);
}

/**
 * A kernel build with its memory import made shared: `asc --sharedMemory --maximumMemory 65536` gives the same bytes (AssemblyScript 0.28.20),
 * so that two builds of four are kept inline. Bytes that import no plain memory, as the first and only import, come back as they are.
 */
export function withSharedMemory(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const text = new TextDecoder("latin1").decode(bytes.subarray(0, 4096)), at = text.indexOf(PLAIN_IMPORT);
  if (at < 0) return bytes;
  const begin = at, end = at + PLAIN_IMPORT.length;
  const shared = Uint8Array.from(SHARED_IMPORT, (c) => c.charCodeAt(0));
  const result = new Uint8Array(bytes.length + shared.length - PLAIN_IMPORT.length);
  result.set(bytes.subarray(0, begin));
  result.set(shared, begin);
  result.set(bytes.subarray(end), begin + shared.length);
  return result;
}
