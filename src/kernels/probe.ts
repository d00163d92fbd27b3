/** Which kernel builds this runtime can run, and their compiled modules. */

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

const compiled = new Map<string, Promise<WebAssembly.Module>>();

/** The compiled module of a build; compiled once, its bytes are imported only when asked for. */
export function loadKernelModule(build: "baseline" | "relaxed"): Promise<WebAssembly.Module> {
  let module = compiled.get(build);
  if (module === undefined) compiled.set(build, module = compile(build));
  return module;
}

async function compile(build: "baseline" | "relaxed"): Promise<WebAssembly.Module> {
  const { default: base64 } = build === "relaxed"
    ? await import("../../build/kernels_relaxed.js")
    : await import("../../build/kernels_baseline.js");
  return WebAssembly.compile(decodeBase64(base64));
}

function decodeBase64(text: string): Uint8Array<ArrayBuffer> {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
