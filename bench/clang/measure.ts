/** What `main.ts` runs on each engine: both modules on one memory, weights in cache, where code shows and not memory. */
import { readFile } from "node:fs/promises";
import { Arena } from "../../src/kernels/arena.ts";
import { groupBlockBytes, LIST_SPAN } from "../../src/kernels/kernels.ts";
import { loadKernelModule } from "../../src/kernels/probe.ts";
import { Random } from "../../src/runtime/random.ts";
import { engineName, timeInTurns } from "../timing.ts";

type Exports = { readonly [name: string]: (...args: number[]) => number };

/** One call of a kernel, and where its results lie. */
interface Case {
  readonly name: string;
  readonly kernel: string;
  readonly args: readonly number[];
  readonly out: number;
  readonly outBytes: number;
}

const memory = new WebAssembly.Memory({ initial: 256 });
const ours = exportsOf(
  await WebAssembly.instantiate(await loadKernelModule("baseline"), { env: { memory } }),
);
const bytes = await readFile(new URL("../../build/bench/clang.wasm", import.meta.url));
const theirs = exportsOf((await WebAssembly.instantiate(bytes, { env: { memory } })).instance);
const arena = new Arena(memory, 2 * 65536), random = new Random(5);

const variants: { [name: string]: () => void } = {}, cases = allCases();
for (const { name, kernel, args, out, outBytes } of cases) {
  const run = (module: Exports): Uint8Array => {
    new Uint8Array(memory.buffer, out, outBytes).fill(0);
    module[kernel]!(...args);
    return new Uint8Array(memory.buffer, out, outBytes).slice();
  };
  const theirBytes = run(theirs), same = run(ours).every((byte, i) => byte === theirBytes[i]);
  if (!same) throw new Error(`${name}: the two builds compute different bits`);
  const [first, second] = [ours, theirs].map((module) => module[kernel]!);
  const start = performance.now();
  for (let i = 0; i < 50; i++) first!(...args);
  const reps = Math.max(1, Math.round(50 / (performance.now() - start)));
  variants[`${name} ours`] = () => {
    for (let i = 0; i < reps; i++) first!(...args);
  };
  variants[`${name} theirs`] = () => {
    for (let i = 0; i < reps; i++) second!(...args);
  };
}
const times = timeInTurns(variants, 41, 20_000);
for (const { name } of cases) {
  const a = times[`${name} ours`]!, b = times[`${name} theirs`]!;
  console.log(
    `${engineName()}, ${name}: ${(a.median / b.median).toFixed(2)} of clang's time ` +
      `(fastest tenth ${(a.p10 / b.p10).toFixed(2)})`,
  );
}

function exportsOf(instance: WebAssembly.Instance): Exports {
  return instance.exports as unknown as Exports;
}

function place(values: Float32Array | Int16Array | Uint32Array | Uint8Array): number {
  const at = arena.allocate(values.byteLength);
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  new Uint8Array(memory.buffer, at, values.byteLength).set(raw);
  return at;
}

function floats(n: number): Float32Array {
  return Float32Array.from({ length: n }, () => 4 * random.uniform() - 2);
}

function bytesOf(n: number): Uint8Array {
  return Uint8Array.from({ length: n }, () => Math.floor(256 * random.uniform()));
}

function allCases(): Case[] {
  const n = 4096, x = place(floats(n)), ones = place(new Float32Array(n).fill(1));
  const y = arena.allocate(4 * n), index = arena.allocate(4 * n + 32), value = arena.allocate(4 * n + 32);
  const list: Case[] = [{
    name: "select_channels_f32, 4,096",
    kernel: "select_channels_f32",
    args: [index, value, x, ones, 1, n],
    out: index,
    outBytes: 8 * n,
  }];

  // half of the channels of 1 MB: short columns, long ones
  const active = Uint32Array.from({ length: 256 }, (_, i) => 2 * i + i % 2), weights = place(floats(2 ** 18));
  const [channels, values] = [place(active), place(floats(256))];
  for (const [nActive, nOut] of [[256, 512], [64, 2048]] as const) {
    list.push({
      name: `gemv_channels_f32, ${nActive} active of ${2 * nActive} x ${nOut}`,
      kernel: "gemv_channels_f32",
      args: [y, weights, channels, values, nActive, nOut, nOut],
      out: y,
      outBytes: 4 * nOut,
    });
  }

  const size = 1024,
    q = place(Int16Array.from({ length: size }, () => Math.floor(4095 * random.uniform()) - 2047));
  const w = place(bytesOf(2 * size * size));
  list.push({
    name: `gemv_pairs_i8, ${size} x ${size}`,
    kernel: "gemv_pairs_i8",
    args: [y, w, q, ones, 0.01, ours["sum_i16"]!(q, size), size, size],
    out: y,
    outBytes: 4 * size,
  }, {
    name: `gemv_channels_i8, 256 active of 512 x ${size}`,
    kernel: "gemv_channels_i8",
    args: [y, w, channels, q, 256, size, size],
    out: y,
    outBytes: 4 * size,
  });

  const table = arena.allocate(size), lists = arena.allocate(2 * LIST_SPAN), scratch = arena.allocate(256);
  ours["select_group_i4"]!(table, lists, x, ones, -1, size);
  const pairBytes = groupBlockBytes(true) * size / 64;
  list.push({
    name: `gemv_group_i4, ${size} x ${size} with mins`,
    kernel: "gemv_group_i4",
    args: [y, w, table, size, size / 64, pairBytes, 1, scratch],
    out: y,
    outBytes: 4 * size,
  });
  return list;
}
