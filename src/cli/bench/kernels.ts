/**
 * Kernels as one token and one prompt use them: every matrix of the blocks in their order, so that what is read comes from where it comes from in a pass;
 * selection, quantisation and scales included. Attention, norms and sampling are apart.
 */
import type { ProjectionName } from "../../model/config.ts";
import { drain, type Linear } from "../../runtime/forward.ts";
import type { Model } from "../../runtime/model.ts";
import { multiplyTokens } from "../../runtime/multiply_tokens.ts";
import { nextTurn } from "../../runtime/turn.ts";
import { MAX_TOKENS } from "../../runtime/workspace.ts";
import { dtypeOf } from "../dtype.ts";
import { benchActivations, benchThreshold, INPUTS } from "./activations.ts";
import { inverseOf, type Row, type Stat, statOf, withSpeedups } from "./rows.ts";
import type { BenchHost, Variant } from "./variants.ts";

/** What to measure. */
export interface KernelOptions {
  /** What rows say they are of. */
  readonly shape: string;
  /** Samples of each variant that count, after three that do not. */
  readonly reps: number;
  /** Tokens of the prompt; 1 to 128. */
  readonly tokens: number;
  /** Blocks that the shape has, where the models hold fewer. */
  readonly layers: number;
}

/** V8 optimises a kernel after some calls, each layer's is one. */
const WARM_UP = 3;
/** Prefill takes a hundred times as long as decode: so many samples are enough. */
const PREFILL_REPS = 5;
/** Where a token's and a prompt's rows begin in the workspace's buffers, which have 128: outputs lie behind the inputs. */
const OUTPUT_ROW = 64;

/** Rows of what was measured until the host's signal, if it came. */
export async function measureKernels(
  host: BenchHost,
  variants: readonly Variant[],
  options: KernelOptions,
): Promise<Row[]> {
  const { shape, layers } = options, rows: Row[] = [];
  const benches = variants.map((variant) => new KernelBench(variant));
  const about = ({ sparsity, model }: Variant): Pick<Row, "shape" | "dtype" | "sparsity"> => ({
    shape,
    dtype: dtypeOf(model),
    sparsity,
  });
  await sample(host, "decode", benches, options.reps, (bench, rep) => bench.token(rep));
  for (const bench of benches) rows.push(...bench.tokenRows(about(bench.variant), layers));
  if (benches.length > 0) {
    const dense = benches[0]!, { dtype } = about(dense.variant);
    const prefillReps = Math.min(options.reps, PREFILL_REPS);
    await sample(host, "prefill", [dense], prefillReps, (bench, rep) => bench.prompt(rep, options.tokens));
    rows.push(...dense.promptRows({ shape, dtype, sparsity: 0 }, options.tokens));
    await sample(host, "memory and selection", [dense], options.reps, (bench) => bench.rest());
    rows.push(...dense.restRows({ shape, dtype, sparsity: 0 }));
  }
  return withSpeedups(rows);
}

/** Runs benches in turns; a sample in which the system took the processor away is dropped, as long as half of them are left. */
async function sample(
  host: BenchHost,
  what: string,
  benches: readonly KernelBench[],
  reps: number,
  run: (bench: KernelBench, rep: number) => void,
): Promise<void> {
  const kept = benches.map(() => 0);
  for (let rep = -WARM_UP; rep < 2 * reps && kept.some((n) => n < reps); rep++) {
    for (let i = 0; i < benches.length; i++) {
      const bench = benches[rep % 2 === 0 ? i : benches.length - 1 - i]!;
      const before = host.interruptions();
      bench.begin();
      bench.variant.model.engine.alone(() => run(bench, rep + WARM_UP));
      const interrupted = before !== null && host.interruptions()! > before;
      const at = benches.indexOf(bench);
      if (rep >= 0 && kept[at]! < reps && (!interrupted || rep >= reps)) {
        bench.keep();
        kept[at]!++;
      }
      await nextTurn();
      if (host.signal.aborted) return;
    }
    host.progress.update(what, Math.max(0, Math.min(...kept)), reps, "samples");
  }
  host.progress.end();
}

/** A linear with where its input and output lie. */
interface Placed {
  readonly name: string;
  readonly linear: Linear;
  /** f32[INPUTS, stride]. */
  readonly x: number;
  readonly xStride: number;
  readonly y: number;
  readonly yStride: number;
}

const SHORT: { readonly [name in ProjectionName]: string } = {
  qProj: "q",
  kProj: "k",
  vProj: "v",
  oProj: "o",
  gateProj: "gate",
  upProj: "up",
  downProj: "down",
};

/** One variant's matrices, inputs and samples. */
class KernelBench {
  readonly variant: Variant;
  readonly #model: Model;
  /** Matrices of each block. */
  readonly #layers: readonly (readonly Placed[])[];
  /** Milliseconds of the sample that runs, by row. */
  #now = new Map<string, number>();
  readonly #samples = new Map<string, number[]>();
  /** Shares of active channels, of warm-up samples too. */
  readonly #active = new Map<string, { readonly sum: number; readonly n: number }>();

  constructor(variant: Variant) {
    this.variant = variant;
    const { engine } = this.#model = variant.model, { workspace: s, memory, weights } = engine;
    const fill = (at: number, stride: number, nIn: number): void => {
      const values = benchActivations(nIn);
      for (let i = 0; i < INPUTS; i++) {
        new Float32Array(memory.buffer, at + 4 * stride * i, nIn).set(
          values.subarray(nIn * i, nIn * (i + 1)),
        );
      }
    };
    const { strides } = s, first = weights.layers[0]!.sites;
    const inputs = [
      { x: s.normed, xStride: strides.hidden, y: s.qkv, yStride: strides.qkv },
      { x: s.attended, xStride: strides.q, y: s.output, yStride: strides.hidden },
      {
        x: s.normed,
        xStride: strides.hidden,
        y: s.gateUp + 4 * OUTPUT_ROW * strides.gateUp,
        yStride: strides.gateUp,
      },
      { x: s.gateUp, xStride: strides.gateUp, y: s.output, yStride: strides.hidden },
    ];
    inputs.forEach(({ x, xStride }, site) => fill(x, xStride, first[site]![0]!.matrix.nIn));
    this.#layers = weights.layers.map(({ sites }) =>
      sites.flatMap((linears, site) =>
        linears.map((linear): Placed => ({
          ...inputs[site]!,
          y: inputs[site]!.y + 4 * linear.at,
          name: linear.parts.map(({ name }) => SHORT[name]).join("_"),
          linear,
        }))
      )
    );
  }

  begin(): void {
    this.#now = new Map();
  }

  keep(): void {
    for (const [name, ms] of this.#now) {
      const all = this.#samples.get(name);
      if (all === undefined) this.#samples.set(name, [ms]);
      else all.push(ms);
    }
  }

  #add(name: string, ms: number): void {
    this.#now.set(name, (this.#now.get(name) ?? 0) + ms);
  }

  /** Notes the share of a matrix's channels that were active. */
  #count(name: string, share: number): void {
    const seen = this.#active.get(name) ?? { sum: 0, n: 0 };
    this.#active.set(name, { sum: seen.sum + share, n: seen.n + 1 });
  }

  #stat(name: string): Stat | null {
    const samples = this.#samples.get(name);
    return samples === undefined ? null : statOf(samples);
  }

  /** All matrices of a token, block by block, and the head. */
  token(rep: number): void {
    const { forward, workspace: s } = this.#model.engine, sparse = this.variant.sparsity > 0;
    for (const [l, placed] of this.#layers.entries()) {
      for (const { name, linear, x, xStride, y } of placed) {
        const began = performance.now();
        s.newInput();
        const active = forward.project(linear, y, x + 4 * xStride * ((l + rep) % INPUTS), sparse);
        const ms = performance.now() - began;
        this.#add(name, ms);
        this.#count(name, active / linear.matrix.nIn);
        this.#add("projections", ms);
      }
    }
    const began = performance.now();
    forward.logits(0);
    this.#add("head", performance.now() - began);
  }

  /** Rows of {@linkcode KernelBench.token}: a matrix's time is the mean over the blocks, that of all is the token's. */
  tokenRows(about: Pick<Row, "shape" | "dtype" | "sparsity">, layers: number): Row[] {
    const held = this.#layers.length, rows: Row[] = [], dense = this.variant.sparsity === 0;
    const place = held < layers ? { layersHeld: held, layers } : {};
    let weights = 0, kept = 0, bytes = 0;
    for (const { name, linear: { matrix, method, parts } } of this.#layers[0]!) {
      const ms = divided(this.#stat(name), held), nOut = parts.reduce((sum, part) => sum + part.nOut, 0);
      const { sum, n } = this.#active.get(name) ?? { sum: 1, n: 1 }, active = sum / n;
      // a stream and a dense product read every channel
      const read = matrix.bytes * (!dense && method === "skip" ? active : 1);
      weights += matrix.nIn * nOut;
      kept += matrix.nIn * nOut * active;
      bytes += read;
      if (ms !== null) {
        rows.push({
          name,
          ...about,
          variant: dense ? "dense" : matrix.layout,
          ms,
          gflops: inverseOf(ms, 2e-6 * matrix.nIn * nOut),
          gbPerSecond: inverseOf(ms, 1e-6 * read),
          ...dense ? {} : { method, measuredSparsity: 1 - active },
          nIn: matrix.nIn,
          nOut,
        });
      }
    }
    const all = divided(this.#stat("projections"), held / layers), head = this.#stat("head");
    if (all !== null) {
      rows.push({
        name: "projections",
        ...about,
        variant: dense ? "dense" : this.variant.name,
        ms: all,
        gflops: inverseOf(all, 2e-6 * weights * layers),
        gbPerSecond: inverseOf(all, 1e-6 * bytes * layers),
        ...dense ? {} : { measuredSparsity: 1 - kept / weights },
        ...place,
      });
    }
    const { lmHead } = this.#model.engine.weights;
    if (head !== null && dense) {
      rows.push({
        name: "head",
        ...about,
        variant: "dense",
        ms: head,
        gflops: inverseOf(head, 2e-6 * lmHead.nIn * lmHead.nOut),
        gbPerSecond: inverseOf(head, 1e-6 * lmHead.bytes),
        nIn: lmHead.nIn,
        nOut: lmHead.nOut,
      });
    }
    return rows;
  }

  /** All matrices of one block with a prompt's tokens. */
  prompt(rep: number, tokens: number): void {
    const { kernels, team, workspace: s } = this.#model.engine,
      placed = this.#layers[rep % this.#layers.length]!;
    const { widest: xStride } = s.strides, x = s.active, y = s.gateUp;
    for (const { name, linear, yStride } of placed) {
      const { nIn } = linear.matrix, values = benchActivations(nIn);
      const rows = new Float32Array(kernels.memory.buffer, x, tokens * xStride).fill(0);
      for (let t = 0; t < tokens; t++) {
        rows.set(values.subarray((t % INPUTS) * nIn, (t % INPUTS + 1) * nIn), t * xStride);
      }
      const began = performance.now();
      drain(multiplyTokens(team, s, linear.matrix, y, yStride, x, xStride, tokens, false));
      this.#add(`prefill ${name}`, performance.now() - began);
    }
  }

  /** Rows of {@linkcode KernelBench.prompt}. */
  promptRows(about: Pick<Row, "shape" | "dtype" | "sparsity">, tokens: number): Row[] {
    return this.#layers[0]!.flatMap(({ name, linear: { matrix, parts } }): Row[] => {
      const ms = this.#stat(`prefill ${name}`), nOut = parts.reduce((sum, part) => sum + part.nOut, 0);
      if (ms === null) return [];
      return [{
        name: `prefill ${name}`,
        ...about,
        variant: "dense",
        ms,
        gflops: inverseOf(ms, 2e-6 * matrix.nIn * nOut * tokens),
        nIn: matrix.nIn,
        nOut,
      }];
    });
  }

  /** Selection of {@linkcode SELECTED} channels, and reading memory in order. */
  rest(): void {
    const { kernels: k, workspace: s, memory } = this.#model.engine, n = SELECTED;
    // scratch of prefill, 512 bytes a channel of the widest matrix
    const at = (i: number): number => s.packed + 4 * i * (n + 64);
    new Float32Array(memory.buffer, at(2), n).set(benchActivations(n).subarray(0, n));
    new Float32Array(memory.buffer, at(3), n).fill(1);
    const threshold = HALF;
    const began = performance.now();
    for (let i = 0; i < SELECTIONS; i++) k.selectChannelsF32(at(0), at(1), at(2), at(3), threshold, n);
    this.#add("select", (performance.now() - began) / SELECTIONS);
    const { start, bytes } = this.#readable();
    const reading = performance.now();
    k.sumI16(start, bytes / 2);
    this.#add("read", performance.now() - reading);
  }

  /** Memory that is read in order: all weights, in multiples of 64 bytes. */
  #readable(): { start: number; bytes: number } {
    const { kernels, memory } = this.#model.engine, start = Math.ceil(kernels.heapBase() / 64) * 64;
    return { start, bytes: Math.floor(Math.min(READ_BYTES, memory.buffer.byteLength - start) / 64) * 64 };
  }

  /** Rows of {@linkcode KernelBench.rest}. */
  restRows(about: Pick<Row, "shape" | "dtype" | "sparsity">): Row[] {
    const select = this.#stat("select"), read = this.#stat("read"), rows: Row[] = [];
    if (select !== null) {
      rows.push({ name: "select", ...about, sparsity: 0.5, variant: "list", ms: select, nIn: SELECTED });
    }
    if (read !== null) {
      const gbPerSecond = inverseOf(read, 1e-6 * this.#readable().bytes);
      rows.push({ name: "read", ...about, variant: "sequential", ms: read, gbPerSecond });
    }
    return rows;
  }
}

/** Channels of the selection that is timed, and how often a sample does it. */
const SELECTED = 4096, SELECTIONS = 200;
/** The median of benchmark activations, so that half are selected. */
const HALF = benchThreshold(SELECTED, 0.5);
/** Most that a sample reads in order: far more than any cache. */
const READ_BYTES = 2 ** 29;

function divided(stat: Stat | null, by: number): Stat | null {
  if (stat === null) return null;
  const { median, min, max, n } = stat;
  return { median: median / by, min: min / by, max: max / by, n };
}

/** Tokens of a prompt that a benchmark of kernels can take. */
export const MAX_PROMPT: number = MAX_TOKENS;
