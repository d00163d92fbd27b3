/**
 * `deno run -A bench/attention.ts [--positions N] [--shape LAYERS,HEADS,KV_HEADS,HEAD_DIM] [--reps N]`, or with bun or node: attention of a whole
 * token at the end of a cache, and of a prompt's last 128 tokens in a quarter of the layers, in every build that the runtime has and in both
 * types of cache, taking turns. Medians; samples in which the process lost its core are dropped.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { Arena } from "../src/kernels/arena.ts";
import { attentionScratchBytes, kvTile, PAGE_POSITIONS } from "../src/kernels/kernels.ts";
import { hasRelaxedSimd, loadKernelModule } from "../src/kernels/probe.ts";
import { createWasmKernels } from "../src/kernels/wasm_kernels.ts";
import { KV_TYPES, type KvType } from "../src/runtime/kv_cache.ts";
import { Random } from "../src/runtime/random.ts";

const { values } = parseArgs({
  options: {
    positions: { type: "string", default: "1024" },
    shape: { type: "string", default: "30,9,3,64" },
    reps: { type: "string", default: "15" },
  },
});
const positions = Number(values.positions), reps = Number(values.reps), PROMPT = 128;
const [nLayers, nHeads, nKvHeads, headDim] = values.shape.split(",").map(Number) as [
  number,
  number,
  number,
  number,
];
const group = nHeads / nKvHeads, promptLayers = Math.ceil(nLayers / 4), promptAt = positions - PROMPT;
if (!(promptAt >= 0)) throw new RangeError(`--positions: ${positions} found, at least ${PROMPT} wanted`);

interface Variant {
  readonly name: string;
  readonly bytes: number;
  decode(): void;
  prompt(): void;
  readonly times: { readonly decode: number[]; readonly prompt: number[] };
}

const random = new Random(1);
const variants: Variant[] = [];
for (const build of ["baseline", "relaxed"] as const) {
  if (build === "relaxed" && !hasRelaxedSimd()) continue;
  for (const type of KV_TYPES) variants.push(await open(build, type));
}

/** A cache full of numbers, in a memory of its own. */
async function open(build: "baseline" | "relaxed", type: KvType): Promise<Variant> {
  const memory = new WebAssembly.Memory({ initial: 1 });
  const kernels = await createWasmKernels(await loadKernelModule(build), memory);
  const arena = new Arena(memory, kernels.heapBase());
  const tileBytes = (type === "f32" ? 4 : 2) * kvTile(headDim).length, layerBytes = nKvHeads * tileBytes;
  const row = nHeads * headDim, nPages = Math.ceil(positions / PAGE_POSITIONS);
  const pages = Array.from({ length: nPages }, () => arena.allocate(nLayers * layerBytes));
  const table = arena.allocate(4 * nPages), out = arena.allocate(4 * PROMPT * row);
  const q = arena.allocate(4 * PROMPT * row),
    scratch = arena.allocate(attentionScratchBytes(PROMPT, group, headDim));
  new Uint32Array(memory.buffer, table, nPages).set(pages);
  new Float32Array(memory.buffer, q, PROMPT * row).forEach((_, i, all) => all[i] = random.uniform() - 0.5);
  const store = type === "f32" ? kernels.storeKvF32 : kernels.storeKvBf16,
    attend = type === "f32" ? kernels.attentionF32 : kernels.attentionBf16;
  for (let layer = 0; layer < nLayers; layer++) {
    for (let at = 0; at < positions; at += PROMPT) {
      const n = Math.min(PROMPT, positions - at);
      store(table, layer * layerBytes, q, q, n, nKvHeads * headDim, at, nKvHeads, headDim);
    }
  }
  const run = (layers: number, position: number, n: number): void => {
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < nKvHeads; head++) {
        const first = 4 * head * group * headDim, offset = layer * layerBytes + head * tileBytes;
        attend(out + first, q + first, table, offset, scratch, position, n, row, row, group, headDim);
      }
    }
  };
  return {
    name: `${build} ${type}`,
    bytes: positions * nLayers * layerBytes / PAGE_POSITIONS,
    decode: () => run(nLayers, positions - 1, 1),
    prompt: () => run(promptLayers, promptAt, PROMPT),
    times: { decode: [], prompt: [] },
  };
}

/** Milliseconds, or null if the process lost its core meanwhile. */
function time(work: () => void): number | null {
  const switches = process.resourceUsage().involuntaryContextSwitches, began = performance.now();
  work();
  const ms = performance.now() - began;
  return process.resourceUsage().involuntaryContextSwitches > switches ? null : ms;
}

for (let rep = -3; rep < reps; rep++) {
  for (const variant of variants) {
    for (const what of ["decode", "prompt"] as const) {
      const ms = time(variant[what]);
      if (rep >= 0 && ms !== null) variant.times[what].push(ms);
    }
  }
}
const median = (times: number[]): number => times.sort((a, b) => a - b)[times.length >> 1] ?? NaN;
console.log(`${positions} positions of ${nLayers} layers, ${nHeads} and ${nKvHeads} heads of ${headDim}`);
for (const { name, bytes, times } of variants) {
  const decode = median(times.decode), prompt = median(times.prompt);
  const products = 2 * nHeads * headDim * promptLayers * PROMPT * (promptAt + (PROMPT + 1) / 2);
  console.log(
    `${name.padEnd(14)} a token ${decode.toFixed(2)} ms (${(bytes / decode / 1e6).toFixed(1)} GB/s)`,
    `| a prompt's token ${(prompt * nLayers / promptLayers / PROMPT).toFixed(3)} ms`,
    `(${(products / prompt / 1e6).toFixed(1)} GMAC/s)`,
  );
}
