/** What `main.ts` runs on each engine. Weights are read from DRAM: copies of each matrix, 160 MB and more, in turns; quantisation of x is timed too. */
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Arena } from "../../src/kernels/arena.ts";
import type { Kernels } from "../../src/kernels/kernels.ts";
import { hasRelaxedSimd, loadKernelModule } from "../../src/kernels/probe.ts";
import { Team } from "../../src/kernels/team.ts";
import { createWasmKernels } from "../../src/kernels/wasm_kernels.ts";
import { type Matrix, multiplyVector, planMatrix } from "../../src/runtime/matrix.ts";
import { Random } from "../../src/runtime/random.ts";
import { Workspace } from "../../src/runtime/workspace.ts";
import { engineName, timeInTurns } from "../timing.ts";

/** Matrices of a block: nIn, nOut. */
const SHAPES: { readonly [name: string]: readonly (readonly [nIn: number, nOut: number])[] } = {
  "smollm2-135m": [[576, 960], [576, 576], [576, 3072], [1536, 576]],
  "tinyllama-1.1b": [[2048, 2560], [2048, 2048], [2048, 11264], [5632, 2048]],
  "llama2-7b": [[4096, 12288], [4096, 4096], [4096, 22016], [11008, 4096]],
};
const POOL_BYTES = 160e6;
/** Bytes a sample reads, about: 1 ms. */
const SAMPLE_BYTES = 16e6;

/** The module of `assembly/kernels.ts`. */
interface RowKernels {
  read_in_order(p: number, n: number): number;
  quantize_blocks(xq: number, unit: number, x: number, n: number): void;
  rows_q4_1(y: number, w: number, xq: number, unit: number, nIn: number, nOut: number): void;
  rows_q4_0(y: number, w: number, xq: number, unit: number, nIn: number, nOut: number): void;
  rows_q8_0(y: number, w: number, xq: number, unit: number, nIn: number, nOut: number): void;
}

const FORMATS = {
  Q4_1: { blockBytes: 20, rows: "rows_q4_1" },
  Q4_0: { blockBytes: 18, rows: "rows_q4_0" },
  Q8_0: { blockBytes: 34, rows: "rows_q8_0" },
} as const;
type Format = keyof typeof FORMATS;

const wanted = process.argv[2];
for (const build of hasRelaxedSimd() ? ["baseline", "relaxed"] as const : ["baseline"] as const) {
  for (const name of Object.keys(SHAPES).filter((name) => wanted === undefined || name === wanted)) {
    for (const format of Object.keys(FORMATS) as Format[]) await measure(build, name, format);
  }
}

async function measure(build: "baseline" | "relaxed", name: string, format: Format): Promise<void> {
  let ours = 0, theirs = 0, plain = 0, read = 0, bytes = 0;
  for (const [nIn, nOut] of SHAPES[name]!) {
    const times = await measureMatrix(build, format, nIn, nOut);
    ours += times.ours;
    theirs += times.theirs;
    plain += times.plain;
    read += times.read;
    bytes += times.bytes;
  }
  const speed = (ms: number): string => (bytes / ms / 1e6).toFixed(1);
  const over = build === "relaxed" ? ` (${(plain / ours).toFixed(2)}x without relaxed SIMD)` : "";
  console.log(
    `${engineName()} ${build}, ${name}, ${format}: ${(theirs / ours).toFixed(2)}x row-major${over}; ` +
      `${speed(ours)} GB/s, memory in order ${speed(read)} GB/s`,
  );
}

async function rowKernels(build: "baseline" | "relaxed", memory: WebAssembly.Memory): Promise<RowKernels> {
  const name = `row_major${build === "relaxed" ? ".relaxed" : ""}.wasm`;
  const bytes = await readFile(new URL(`../../build/bench/${name}`, import.meta.url));
  const { instance } = await WebAssembly.instantiate(bytes, { env: { memory } });
  return instance.exports as unknown as RowKernels;
}

async function measureMatrix(build: "baseline" | "relaxed", format: Format, nIn: number, nOut: number) {
  const { blockBytes, rows } = FORMATS[format];
  const memory = new WebAssembly.Memory({ initial: 4 });
  const k = await createWasmKernels(await loadKernelModule(build), memory, {
    touch: "bun" in process.versions ? "plain" : "atomic",
  });
  const row = await rowKernels(build, memory), plainRow = await rowKernels("baseline", memory);
  const arena = new Arena(memory, 2 * 65536);
  const config = {
    vocabSize: 64,
    hiddenSize: nIn,
    intermediateSize: Math.max(nIn, nOut),
    numAttentionHeads: 1,
    numKeyValueHeads: 1,
    headDim: 64,
    ropeDim: 64,
  } as ConstructorParameters<typeof Workspace>[1];
  const s = new Workspace(k, config, arena.allocate(Workspace.size(k, config)));
  s.initialise();
  const x = arena.allocate(4 * nIn),
    y = arena.allocate(4 * nOut + 256),
    xq = arena.allocate(3 * nIn),
    unit = arena.allocate(nIn);
  const random = new Random(nIn);
  new Float32Array(memory.buffer, x, nIn).set(Float32Array.from({ length: nIn }, () => normal(random)));

  const rawBytes = nOut * (nIn / 32) * blockBytes, raw = arena.allocate(rawBytes);
  fillBlocks(new DataView(memory.buffer, raw, rawBytes), format, random);
  const first = pack(k, arena, format, build, raw, nIn, nOut), ourBytes = first.end - first.begin;
  const copies = Math.ceil(POOL_BYTES / ourBytes), reps = Math.max(1, Math.round(SAMPLE_BYTES / ourBytes));
  arena.reserve(copies * (ourBytes + rawBytes + 128));
  const begins = [first.begin], raws = [raw];
  for (let i = 1; i < copies; i++) {
    begins.push(arena.allocate(ourBytes));
    raws.push(arena.allocate(rawBytes));
    new Uint8Array(memory.buffer).copyWithin(begins[i]!, first.begin, first.end);
    new Uint8Array(memory.buffer).copyWithin(raws[i]!, raw, raw + rawBytes);
  }
  const matrices = begins.map((begin) => moved(first.matrix, begin - first.begin));

  const team = Team.alone(k, s.scratch);
  const our = (i: number): void => {
    s.newInput();
    multiplyVector(team, s, matrices[i]!, y, x, s.ones, -1);
  };
  const their = (row: RowKernels) => (i: number): void => {
    row.quantize_blocks(xq, unit, x, nIn);
    row[rows](y, raws[i]!, xq, unit, nIn, nOut);
  };
  for (const kernels of [row, plainRow]) {
    check(memory, y, nOut, () => our(1), () => their(kernels)(1), `${format} ${nIn} -> ${nOut}`);
  }
  let next = 0;
  const inTurns = (run: (i: number) => void) => () => {
    for (let i = 0; i < reps; i++) run(next = (next + 1) % copies);
  };
  const times = timeInTurns(
    {
      ours: inTurns(our),
      theirs: inTurns(their(row)),
      plain: inTurns(their(plainRow)),
      read: inTurns((i) => row.read_in_order(begins[i]!, ourBytes - ourBytes % 64)),
    },
    15,
    2500,
  );
  const ms = (name: string): number => times[name]!.median / reps;
  return { ours: ms("ours"), theirs: ms("theirs"), plain: ms("plain"), read: ms("read"), bytes: ourBytes };
}

/** Nearly normal, variance 1. */
function normal(random: Random): number {
  return (random.uniform() + random.uniform() + random.uniform() + random.uniform() - 2) * 1.732;
}

/** Scales of about 1/100 in f16, any nibbles; -128 does not occur in Q8_0. */
function fillBlocks(view: DataView, format: Format, random: Random): void {
  const { blockBytes } = FORMATS[format], head = format === "Q4_1" ? 4 : 2;
  for (let at = 0; at < view.byteLength; at += blockBytes) {
    view.setUint16(at, 0x2100 + Math.floor(random.uniform() * 512), true);
    // a negative min
    if (format === "Q4_1") view.setUint16(at + 2, 0xac00 + Math.floor(random.uniform() * 512), true);
    for (let i = head; i < blockBytes; i++) {
      const byte = Math.floor(random.uniform() * 256);
      view.setUint8(at + i, format === "Q8_0" && byte === 128 ? 0 : byte);
    }
  }
}

/** Packs the blocks as loading does; what it takes lies between `begin` and `end`. */
function pack(
  k: Kernels,
  arena: Arena,
  format: Format,
  build: "baseline" | "relaxed",
  raw: number,
  nIn: number,
  nOut: number,
): { readonly matrix: Matrix; readonly begin: number; readonly end: number } {
  const mins = format === "Q4_1";
  const plan = planMatrix(
    format === "Q8_0" ? "pairs-i8" : build === "relaxed" ? "quad-i4" : "group-i4",
    nIn,
    nOut,
    { mins },
  );
  const begin = arena.allocate(0), { sizes } = plan;
  const matrix: Matrix = {
    ...plan,
    w: arena.allocate(sizes.w),
    rowScale: arena.allocate(sizes.rowScale),
    channelScale: 0,
  };
  const end = arena.allocate(0), rowBlocks = nIn / 32;
  if (format === "Q8_0") {
    const floats = arena.allocate(4 * 16 * nIn);
    for (let o = 0; o < nOut; o += 16) {
      k.dequantize("Q8_0", floats, raw + o * rowBlocks * 34, 16 * rowBlocks);
      k.packPairsI8(matrix.w, matrix.rowScale, floats, o, 16, nIn, matrix.nInPadded);
    }
  } else if (build === "relaxed") {
    k.packQuadI4(matrix.w, matrix.rowScale, raw, mins ? 1 : 0, 0, nOut, rowBlocks, matrix.nInPadded);
  } else {
    const rowBytes = rowBlocks * FORMATS[format].blockBytes;
    for (let o = 0; o < nOut; o += 64) {
      const { w, rowScale, chunk, nInPadded } = matrix;
      k.packGroupI4(w, rowScale, raw + o * rowBytes, mins ? 1 : 0, o, 64, rowBlocks, nInPadded, chunk);
    }
  }
  return { matrix, begin, end };
}

function moved(matrix: Matrix, by: number): Matrix {
  return { ...matrix, w: matrix.w + by, rowScale: matrix.rowScale + by };
}

/** @throws {Error} If two ways to the same product differ by more than their rounding of x and, in int8, of the weights. */
function check(
  memory: WebAssembly.Memory,
  y: number,
  nOut: number,
  a: () => void,
  b: () => void,
  what: string,
): void {
  const result = (run: () => void): Float32Array => {
    run();
    return new Float32Array(memory.buffer, y, nOut).slice();
  };
  const ours = result(a), theirs = result(b);
  let error = 0, size = 0;
  for (let o = 0; o < nOut; o++) {
    error += (ours[o]! - theirs[o]!) ** 2;
    size += theirs[o]! ** 2;
  }
  if (!(Math.sqrt(error / size) < 0.03)) {
    throw new Error(`${what}: products differ by ${Math.sqrt(error / size)}`);
  }
}
