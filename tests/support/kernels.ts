/** Kernel builds under test, guarded buffers in their memory, and seeded numbers to fill them with. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { instantiate } from "@assemblyscript/loader";
import type { Kernels } from "../../src/kernels/kernels.ts";
import { hasRelaxedSimd, loadKernelModule } from "../../src/kernels/probe.ts";
import { createReferenceKernels } from "../../src/kernels/reference_kernels.ts";
import { createWasmKernels, kernelsOf, type WasmKernelOptions } from "../../src/kernels/wasm_kernels.ts";
import { rootPath } from "./shared.ts";

/** What can be tested; `debug` is the baseline source without optimisation and with assertions. */
export type BuildName = "reference" | "baseline" | "relaxed" | "debug";

/** Sizes around every tile: nothing, tails of 1 and 3, one tile, one more, two turns of each loop. */
export const SIZES: readonly number[] = [0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 67];

/** A build on a fresh memory; null if it needs relaxed SIMD and this runtime has none. */
export async function loadBuild(build: BuildName, options?: WasmKernelOptions): Promise<Kernels | null> {
  const memory = new WebAssembly.Memory({ initial: 1 });
  if (build === "reference") return createReferenceKernels(memory);
  if (build === "relaxed" && !hasRelaxedSimd()) return null;
  if (build === "debug") {
    // the loader turns a failed assertion into an error with the kernel's file and line
    const bytes = readFileSync(rootPath("build/kernels.debug.wasm"));
    const { instance } = await instantiate(bytes, { env: { memory } });
    return kernelsOf(instance.exports, memory, options);
  }
  return await createWasmKernels(await loadKernelModule(build), memory, options);
}

/** One test a build of `builds`: its name in brackets. Guards are looked at when the body ends. */
export function kernelTest(
  name: string,
  body: (bench: Bench, build: BuildName) => void | Promise<void>,
  builds: readonly BuildName[] = ["reference", "baseline", "relaxed", "debug"],
): void {
  for (const build of builds) {
    const skip = build === "relaxed" && !hasRelaxedSimd() ? "this runtime has no relaxed SIMD" : false;
    test(`${name} (${build})`, { skip }, async () => {
      const bench = await openBench(build);
      await body(bench, build);
      bench.reset();
    });
  }
}

/** A bench of one build. */
export async function openBench(build: BuildName, options?: WasmKernelOptions): Promise<Bench> {
  const kernels = await loadBuild(build, options);
  assert.ok(kernels, `${build}: not in this runtime`);
  return new Bench(kernels);
}

interface ViewOf {
  u8: Uint8Array;
  i8: Int8Array;
  u16: Uint16Array;
  i16: Int16Array;
  u32: Uint32Array;
  i32: Int32Array;
  f32: Float32Array;
  f64: Float64Array;
}

const VIEWS = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  f64: Float64Array,
};

/** A range of a bench's memory. */
export interface Buffer<K extends keyof ViewOf> {
  /** Byte offset, what a kernel takes. */
  readonly at: number;
  /** A view of what is there now. */
  readonly values: ViewOf[K];
}

const GUARD_BYTES = 64;
const GUARD = 0x2b;
/** All ones: NaN as a float, so that an output that was not written shows. */
const UNWRITTEN = 0xff;

/** One build's kernels, and buffers in its memory with guard words on both sides. */
export class Bench {
  readonly kernels: Kernels;
  readonly #buffers: { at: number; bytes: number }[] = [];
  #top: number;

  constructor(kernels: Kernels) {
    this.kernels = kernels;
    this.#top = kernels.heapBase();
  }

  /** A buffer holding `content`, or room for that many numbers, unwritten. Its offset is 16 modulo 32. */
  buffer<K extends keyof ViewOf>(kind: K, content: number | ArrayLike<number>): Buffer<K> {
    const { memory } = this.kernels;
    const View = VIEWS[kind];
    const length = typeof content === "number" ? content : content.length;
    const bytes = length * View.BYTES_PER_ELEMENT;
    const at = Math.ceil((this.#top + GUARD_BYTES) / 32) * 32 + 16;
    this.#top = at + bytes + GUARD_BYTES;
    // a page and more past the last buffer: the int4 stream touches memory ahead of its block
    const missing = this.#top + 65536 - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    const u8 = new Uint8Array(memory.buffer);
    u8.fill(GUARD, at - GUARD_BYTES, this.#top);
    u8.fill(UNWRITTEN, at, at + bytes);
    if (typeof content !== "number") new View(memory.buffer, at, length).set(content);
    this.#buffers.push({ at, bytes });
    return {
      at,
      get values(): ViewOf[K] {
        return new View(memory.buffer, at, length) as ViewOf[K];
      },
    };
  }

  /** Asserts that no guard changed; `what` names the case. */
  checkGuards(what: string = ""): void {
    const words = new Uint8Array(this.kernels.memory.buffer);
    this.#buffers.forEach(({ at, bytes }, i) => {
      for (const begin of [at - GUARD_BYTES, at + bytes]) {
        for (let byte = begin; byte < begin + GUARD_BYTES; ++byte) {
          if (words[byte] === GUARD) continue;
          const where = byte < at
            ? `${at - byte} bytes before`
            : `${byte - at - bytes} bytes past the end of`;
          assert.fail(`${this.kernels.build}: ${what} wrote ${where} buffer ${i} (${bytes} bytes)`);
        }
      }
    });
  }

  /** Checks the guards and gives all buffers back. */
  reset(what: string = ""): void {
    this.checkGuards(what);
    this.#buffers.length = 0;
    this.#top = this.kernels.heapBase();
  }
}

/**
 * Asserts |actual - expected| <= bound for each element; `!(error <= bound)` so that NaN fails.
 * A bound that is one number holds for all.
 */
export function assertWithin(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: number | ArrayLike<number>,
  what: string,
): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < actual.length; ++i) {
    const limit = typeof bound === "number" ? bound : bound[i]!;
    const error = Math.abs(actual[i]! - expected[i]!);
    if (!(error <= limit)) {
      assert.fail(`${what}: [${i}] is ${actual[i]}, expected ${expected[i]}: error ${error} over ${limit}`);
    }
  }
}

/** Asserts that two arrays hold the same bits; -0 is not 0. */
export function assertSameBits(actual: ArrayBufferView, expected: ArrayBufferView, what: string): void {
  const bytes = (view: ArrayBufferView) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const a = bytes(actual);
  const b = bytes(expected);
  assert.equal(a.length, b.length, `${what}: bytes`);
  const i = a.findIndex((byte, at) => byte !== b[at]);
  if (i >= 0) assert.fail(`${what}: byte ${i} of ${a.length} is ${a[i]}, expected ${b[i]}`);
}

/** What a sum of n float32 products may be off: `(n + 1) * 2^-23 * sum(|terms|)`, and each product's subnormal step. */
export function sumBound(n: number, magnitude: number): number {
  return (n + 1) * (2 ** -23 * magnitude + 2 ** -149);
}

/** Seeded numbers, the same in every engine: only +, * and shifts (mulberry32). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** In [0, 1), 32 bits. */
  uniform(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** 0..n-1. */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** Nearly normal, mean 0, variance 1, within ±3.5: the sum of four uniforms. */
  normal(): number {
    return (this.uniform() + this.uniform() + this.uniform() + this.uniform() - 2) * 1.7320508075688772;
  }

  /** n normal numbers, as float32. */
  weights(n: number, scale: number = 1): Float32Array {
    return Float32Array.from({ length: n }, () => this.normal() * scale);
  }

  /** As activations are: one in a hundred 15 times larger, zeros of both signs and subnormals among them. */
  activations(n: number): Float32Array {
    return Float32Array.from({ length: n }, () => {
      const kind = this.below(100);
      const v = this.normal();
      if (kind === 0) return v * 15;
      if (kind === 1) return 0;
      if (kind === 2) return -0;
      if (kind === 3) return v * 1e-39;
      return v;
    });
  }

  /** About `share` of 0..n-1, ascending. */
  subset(n: number, share: number): number[] {
    return Array.from({ length: n }, (_, i) => i).filter(() => this.uniform() < share);
  }

  /** n bytes. */
  bytes(n: number): Uint8Array<ArrayBuffer> {
    return Uint8Array.from({ length: n }, () => this.below(256));
  }
}

const words = new DataView(new ArrayBuffer(4));
/** Rounded to bf16, to nearest even. */
export function bf16(value: number): number {
  words.setFloat32(0, value);
  const bits = words.getUint32(0);
  words.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return words.getFloat32(0);
}
