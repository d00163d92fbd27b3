import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BLOCK, type StorageType } from "../../src/format/checkpoint.ts";
import type { Kernels } from "../../src/kernels/kernels.ts";
import { dequantizeReference } from "../../src/kernels/reference/dequantize.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import { requireShared, rootPath, skipWithout } from "../support/shared.ts";

type BlockType = Exclude<StorageType, "F32">;
interface Case {
  name: string;
  type: BlockType;
  raw: string;
  f32: string;
  not_finite: number;
}

const GOLDEN = "golden/gguf/dequant.json";
const GUARD = 0xdeadbeef;
const TYPES = Object.keys(BLOCK).filter((type) => type !== "F32") as BlockType[];

const cases = (): Case[] => JSON.parse(readFileSync(requireShared(GOLDEN), "utf8")).cases;
const bytesOf = (base64: string): Uint8Array => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

function assertSameBits(found: Float32Array, wanted: Float32Array, name: string): void {
  assert.equal(found.length, wanted.length, name);
  const foundBits = new Uint32Array(found.buffer, found.byteOffset),
    wantedBits = new Uint32Array(wanted.buffer);
  for (let i = 0; i < wanted.length; ++i) {
    const same = foundBits[i] === wantedBits[i] || Number.isNaN(wanted[i]) && Number.isNaN(found[i]);
    assert.ok(same, `${name}: value ${i} is ${found[i]}, wanted ${wanted[i]}`);
  }
}

function firstBadBlock(values: Float32Array, perBlock: number): number {
  return Math.floor(values.findIndex((value) => !Number.isFinite(value)) / perBlock);
}

async function loadKernels(build: "baseline" | "relaxed" | "debug"): Promise<Kernels> {
  const module = await WebAssembly.compile(readFileSync(rootPath(`build/kernels.${build}.wasm`)));
  return createWasmKernels(
    module,
    new WebAssembly.Memory({ initial: 4 }),
    build === "debug" ? "baseline" : build,
  );
}

/** Runs the kernel on blocks that begin at an odd address, as rows in a file's bytes may, between guard words. */
function runKernel(kernels: Kernels, type: BlockType, raw: Uint8Array): { y: Float32Array; bad: number } {
  const n = raw.length / BLOCK[type].bytes, nValues = n * BLOCK[type].values;
  const y = (kernels.heapBase() + 63 & ~15) + 16, blocks = y + nValues * 4 + 33;
  new Uint8Array(kernels.memory.buffer, blocks, raw.length).set(raw);
  const words = new Uint32Array(kernels.memory.buffer, y - 16, nValues + 8).fill(GUARD);
  const bad = kernels.dequantize(type, y, blocks, n);
  for (let i = 0; i < 4; ++i) {
    assert.equal(words[i], GUARD, `${type}: wrote before y`);
    assert.equal(words[4 + nValues + i], GUARD, `${type}: wrote past y`);
  }
  return { y: new Float32Array(kernels.memory.buffer.slice(y, y + nValues * 4)), bad };
}

/** Blocks of random bytes; about one half in sixteen of them is not finite. */
function randomBlocks(type: BlockType, n: number, seed: number): Uint8Array {
  let state = seed;
  return Uint8Array.from({ length: n * BLOCK[type].bytes }, () => {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    return state >>> 24;
  });
}

test("dequantizeReference: equals ggml bit for bit", { skip: skipWithout(GOLDEN) }, () => {
  assert.equal(cases().length, 118);
  for (const { name, type, raw, f32 } of cases()) {
    assertSameBits(dequantizeReference(type, bytesOf(raw)), new Float32Array(bytesOf(f32).buffer), name);
  }
});

test("dequantizeReference: refuses part of a block", () => {
  assert.throws(() => dequantizeReference("Q4_1", new Uint8Array(21)), RangeError);
});

for (const build of ["baseline", "relaxed", "debug"] as const) {
  test(`dequantize (${build}): equals ggml bit for bit`, { skip: skipWithout(GOLDEN) }, async () => {
    const kernels = await loadKernels(build);
    for (const { name, type, raw, f32 } of cases()) {
      const wanted = new Float32Array(bytesOf(f32).buffer);
      const { y, bad } = runKernel(kernels, type, bytesOf(raw));
      assertSameBits(y, wanted, name);
      assert.equal(bad, firstBadBlock(wanted, BLOCK[type].values), name);
    }
  });

  test(`dequantize (${build}): equals the reference on random blocks, and names the first bad one`, async () => {
    const kernels = await loadKernels(build);
    for (const type of TYPES) {
      for (const n of [0, 1, 3, 4, 5, 15, 16, 17, 63, 64, 67]) {
        const raw = randomBlocks(type, n, n + 1);
        const wanted = dequantizeReference(type, raw);
        const { y, bad } = runKernel(kernels, type, raw);
        assertSameBits(y, wanted, `${type} x ${n}`);
        assert.equal(bad, firstBadBlock(wanted, BLOCK[type].values), `${type} x ${n}`);
      }
    }
  });

  test(`dequantize (${build}): a NaN or infinite scale or minimum is noticed in any block`, async () => {
    const kernels = await loadKernels(build);
    const halves: { [type in BlockType]?: number[] } = {
      Q8_0: [0],
      Q4_0: [0],
      Q4_1: [0, 2],
      Q5_0: [0],
      Q5_1: [0, 2],
      Q4_K: [0, 2],
      Q5_K: [0, 2],
      Q6_K: [208],
    };
    for (const [type, offsets] of Object.entries(halves) as [BlockType, number[]][]) {
      for (const offset of offsets) {
        for (const bits of [0x7c00, 0xfc00, 0x7e00, 0x7c01]) {
          for (const block of [0, 1, 4]) {
            const raw = new Uint8Array(5 * BLOCK[type].bytes);
            new DataView(raw.buffer).setUint16(block * BLOCK[type].bytes + offset, bits, true);
            assert.equal(
              runKernel(kernels, type, raw).bad,
              block,
              `${type} byte ${offset} ${bits.toString(16)}`,
            );
          }
        }
      }
    }
  });

  test(`findNonFiniteF32 (${build}): the first NaN or infinity, in the lanes and in the tail`, async () => {
    const kernels = await loadKernels(build);
    const x = kernels.heapBase() + 15 & ~15;
    for (const n of [0, 1, 3, 4, 5, 17]) {
      const values = new Float32Array(kernels.memory.buffer, x, n + 1).fill(-3.4e38);
      values[n] = NaN; // just past the end
      assert.equal(kernels.findNonFiniteF32(x, n), -1);
      for (let i = 0; i < n; ++i) {
        for (const bad of [NaN, Infinity, -Infinity]) {
          values.fill(1, 0, n);
          values[i] = bad;
          values[n - 1] = Infinity;
          assert.equal(kernels.findNonFiniteF32(x, n), i);
        }
      }
    }
  });
}
