/** A weight matrix in the runtime's memory: how many bytes each layout takes, and its products for one token and for many. */
import { GROUP, groupBlockBytes, type Kernels, padTo, quadBlockBytes } from "../kernels/kernels.ts";
import type { PartKernels } from "../kernels/recorder.ts";
import type { Team } from "../kernels/team.ts";
import { MAX_SEGMENTS, type Workspace } from "./workspace.ts";

/** How the projections can be kept in memory; int4 is the file's own 4-bit groups, never a second rounding. */
export const DTYPES = ["f32", "bf16", "int8", "int4"] as const;
/** One of {@linkcode DTYPES}. */
export type Dtype = (typeof DTYPES)[number];

/**
 * Layouts of `kernels.ts`. `rows` serve the embedding and the head; `pairs` those too, and int8 projections of a model without a recipe; `quad`
 * is int4 that no recipe skips any of, with relaxed kernels.
 */
export type Layout =
  | "channels-f32"
  | "channels-bf16"
  | "channels-i8"
  | "group-i4"
  | "quad-i4"
  | "rows-f32"
  | "rows-bf16"
  | "pairs-i8";

/** A matrix before it has a place. */
export interface MatrixPlan {
  readonly layout: Layout;
  readonly nIn: number;
  readonly nOut: number;
  /** Sizes that the layout pads to with zero weights. */
  readonly nInPadded: number;
  readonly nOutPadded: number;
  /** Outputs a chunk of group-i4. */
  readonly chunk: number;
  /** Whether it is int8 with a scale for each channel beside the row's. */
  readonly balanced: boolean;
  /** Whether it is int4 with a min for each group. */
  readonly withMins: boolean;
  /** Whether it is U or V of a low-rank part. */
  readonly isFactor: boolean;
  /** Bytes of each part; 0 where there is no such part. */
  readonly sizes: {
    readonly w: number;
    readonly rowScale: number;
    readonly channelScale: number;
  };
  readonly bytes: number;
}

/** A packed matrix; pointers are byte offsets into the model's memory, 0 where the layout has no such part. */
export interface Matrix extends MatrixPlan {
  readonly w: number;
  readonly rowScale: number;
  /** f32[nInPadded], int8 only; 0: every channel's is 1. */
  readonly channelScale: number;
}

/** Sizes of a matrix in a layout; `isDense`: nothing is ever skipped of it; `isFactor`: it is U or V of a low-rank part. */
export function planMatrix(
  layout: Layout,
  nIn: number,
  nOut: number,
  extra: {
    readonly mins?: boolean;
    readonly balanced?: boolean;
    readonly isDense?: boolean;
    readonly isFactor?: boolean;
  },
): MatrixPlan {
  const { mins = false, balanced = false, isDense = false, isFactor = false } = extra;
  const [nInPadded, nOutPadded] = paddedSizes(layout, nIn, nOut, isFactor),
    group = layout === "group-i4",
    quad = layout === "quad-i4";
  const elements = nInPadded * nOutPadded, scaled = group || quad || layout.endsWith("-i8");
  const sizes = {
    w: group
      ? elements / 4096 * groupBlockBytes(mins)
      : quad
      ? elements / 1024 * quadBlockBytes(mins)
      : elements * (layout.endsWith("f32") ? 4 : layout.endsWith("bf16") ? 2 : 1),
    rowScale: scaled ? 4 * nOutPadded : 0,
    channelScale: balanced ? 4 * nInPadded : 0,
  };
  const bytes = Object.values(sizes).reduce((sum, n) => sum + n);
  const chunk = group ? isDense ? 64 : chunkSize(nOutPadded) : 0;
  return {
    layout,
    nIn,
    nOut,
    nInPadded,
    nOutPadded,
    chunk,
    balanced,
    withMins: mins,
    isFactor,
    sizes,
    bytes,
  };
}

/** Gives a matrix its place. */
export function placeMatrix(plan: MatrixPlan, allocate: (bytes: number) => number): Matrix {
  const { w, rowScale, channelScale } = plan.sizes;
  const place = (bytes: number): number => bytes === 0 ? 0 : allocate(bytes);
  return { ...plan, w: place(w), rowScale: place(rowScale), channelScale: place(channelScale) };
}

function paddedSizes(
  layout: Layout,
  nIn: number,
  nOut: number,
  isFactor: boolean,
): [nIn: number, nOut: number] {
  switch (layout) {
    case "channels-f32":
    case "rows-f32":
    case "rows-bf16":
      return [nIn, nOut];
    case "channels-bf16":
      return [nIn, padTo(nOut, 8)];
    case "channels-i8":
      return [padTo(nIn, GROUP), padTo(nOut, GROUP)];
    case "pairs-i8":
      // only prefill's integer panels want whole groups, and ranks are small: 37 of 5,632 outputs in 40 take two thirds of the time that 64 take
      return [padTo(nIn, isFactor ? 8 : GROUP), padTo(nOut, 16)];
    case "group-i4":
      return [padTo(nIn, 64), padTo(nOut, 64)];
    case "quad-i4":
      return [padTo(nIn, 64), padTo(nOut, 16)];
  }
}

/**
 * The largest multiple of 64 up to 1,024 that divides nOut: a chunk's outputs (4 KB) stay in L1 while its groups pass. For lists, whose loop exits
 * are predicted then (against 64: 8 % at 50 %, 12 % at 70 %). Where all channels are read, 64 is as fast within 1 %, and outputs are contiguous.
 */
function chunkSize(nOutPadded: number): number {
  for (let chunk = Math.min(1024, nOutPadded);; chunk -= 64) if (nOutPadded % chunk === 0) return chunk;
}

/** Above so many outputs y falls out of L1 (32 KB and more) from one column to the next, and several columns at a time are faster. */
const MAX_OUTPUTS_IN_ORDER = 6144;

/** y f32[nOut padded] += W x over all channels of a channel-major float matrix. */
function addAllChannels(
  k: PartKernels,
  s: Workspace,
  layout: "channels-f32" | "channels-bf16",
  y: number,
  w: number,
  x: number,
  nIn: number,
  nOut: number,
): void {
  const isF32 = layout === "channels-f32";
  if (nOut <= MAX_OUTPUTS_IN_ORDER) {
    (isF32 ? k.gemvAllChannelsF32 : k.gemvAllChannelsBf16)(y, w, x, nIn, nOut);
  } else {
    const stride = isF32 ? nOut : padTo(nOut, 8);
    (isF32 ? k.gemvChannelsF32 : k.gemvChannelsBf16)(y, w, s.iota, x, nIn, nOut, stride);
  }
}

/**
 * y += W x of a factor, whose channels are few and all active. As pairs i8 it takes half the time of bf16 (0.4 to 0.6 from 2,048 outputs up);
 * channel by channel int8 is no faster but with 11,008 outputs in V8 (0.9; with 2,048 1.1 to 1.3).
 *
 * @param y f32[nOut padded]
 * @param x f32[nIn]
 */
export function addProduct(team: Team, s: Workspace, m: Matrix, y: number, x: number): void {
  const k = team.kernels;
  if (m.layout === "channels-f32" || m.layout === "channels-bf16") {
    return addAllChannels(k, s, m.layout, y, m.w, x, m.nIn, m.nOut);
  }
  multiplyVector(team, s, m, s.accumulator, x, s.ones, -1);
  k.addF32(y, s.accumulator, m.nOut);
}

/**
 * A product of one vector that is ready to run. Its units are ranges of outputs, or of channels that are added up apart; they run in any order, on
 * any thread and with units of other products in between, and the result has the same bits.
 */
export interface VectorProduct {
  readonly units: number;
  /** How many channels passed the threshold. */
  readonly active: number;
  /** Runs units from … to - 1. */
  readonly run: (k: PartKernels, from: number, to: number, scratch: number) => void;
  /** To be called once all units have run. */
  readonly finish?: () => void;
}

/**
 * y = W x for one token, reading all channels whose scale * |x| passes the threshold (-1: all of them). The result has the same bits however
 * many threads there are: they share outputs, or segments of channels that are the same for any number of them.
 *
 * @param y       f32[nOutPadded], overwritten
 * @param x       f32, zero from nIn to nInPadded
 * @param scale   f32[nInPadded], the channel's weight in the test
 * @returns how many channels passed
 */
export function multiplyVector(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  x: number,
  scale: number,
  threshold: number,
): number {
  const product = prepareVector(team, s, m, y, x, scale, threshold);
  team.each(product.units, product.run);
  product.finish?.();
  return product.active;
}

/** Bytes of weights that several products read one after the other: they stay in L2. 64 KB to 768 KB were equally fast (Xeon, 1 MB of L2). */
const BLOCK_BYTES = 1 << 17;
/** Runs of units a step, of all products: their calls (at most 48 bytes, and one for each 64 outputs of int4) fit a job of 64 KB. */
const MAX_RUNS = 512;

/** Runs products of one matrix with several vectors, each as if alone, block by block of the matrix, so that its memory is read once for all of them. */
export function runTogether(team: Team, m: Matrix, products: readonly VectorProduct[]): void {
  const { units } = products[0]!, unitBytes = m.sizes.w / units;
  const most = team.threads === 1 ? units : Math.ceil(units / (4 * team.threads));
  const block = Math.max(1, Math.min(most, Math.floor(BLOCK_BYTES / unitBytes)));
  const blocks = Math.ceil(units / block);
  const runs = products.length * (m.layout === "group-i4" ? Math.ceil(m.nOutPadded / 64 / blocks) : 1);
  const step = Math.max(1, Math.floor(MAX_RUNS / runs));
  for (let first = 0; first < blocks; first += step) {
    team.each(Math.min(step, blocks - first), (k, from, to, scratch) => {
      for (let i = first + from; i < first + to; i++) {
        for (const { run } of products) run(k, block * i, Math.min(units, block * (i + 1)), scratch);
      }
    });
  }
  for (const { finish } of products) finish?.();
}

/**
 * What {@linkcode multiplyVector} runs. What it has made of x lies in the workspace until it is finished, so several products at a time need
 * workspaces of their own.
 *
 * @param segments int8 channel by channel only: how many segments the active channels are cut into, default as many as are worth it
 */
export function prepareVector(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  x: number,
  scale: number,
  threshold: number,
  segments?: number,
): VectorProduct {
  const k = team.kernels;
  switch (m.layout) {
    case "channels-f32":
    case "channels-bf16":
      return prepareFloatChannels(team, s, m, y, x, scale, threshold);
    case "channels-i8": {
      const active = s.select("list", x, scale, threshold, m.nIn);
      k.gatherF32(s.gathered, m.channelScale, s.index, active);
      const padded = padTo(active, 8), unit = k.quantizeI16(s.quantised, s.value, s.gathered, active, padded);
      // kernels take six or eight columns at a time; integers add up to the same wherever they are cut
      const sum = inSegments(
        s,
        s.accumulator,
        m.nOutPadded,
        evenBounds(padded, 24, segments),
        (k, out, from, to) => {
          const index = s.index + 4 * from, xq = s.quantised + 2 * from;
          k.gemvChannelsI8(out, m.w, index, xq, to - from, m.nOutPadded, m.nOutPadded);
        },
        k.addI32,
      );
      const finish = (): void => {
        sum.finish();
        k.finishChannelsI8(y, s.accumulator, m.rowScale, unit, k.sumI16(s.quantised, padded), m.nOutPadded);
      };
      return { ...sum, active, finish };
    }
    case "group-i4": {
      const selected = s.select("group", x, scale, threshold, m.nInPadded), isDense = threshold < 0;
      const active = selected - (isDense ? m.nInPadded - m.nIn : 0);
      return m.chunk === 64
        ? { ...groupBlocks(s, m, y, isDense), active }
        : { ...groupChunks(team, s, m, y, isDense), active };
    }
    case "quad-i4": {
      if (threshold >= 0) throw new Error("quad-i4 reads all channels");
      k.quantizeQuadI4(s.quadRecords, x, m.nInPadded);
      const blockBytes = m.nInPadded / 64 * quadBlockBytes(m.withMins), withMins = m.withMins ? 1 : 0;
      return {
        units: m.nOutPadded / 16,
        active: m.nIn,
        run(k, from, to) {
          const at = 64 * from, w = m.w + blockBytes * from;
          k.gemvQuadI4(y + at, w, m.rowScale + at, s.quadRecords, m.nInPadded, 16 * (to - from), withMins);
        },
      };
    }
    case "rows-f32":
      return {
        units: m.nOut,
        active: m.nIn,
        run: (k, from, to) => k.gemvRowsF32(y + 4 * from, m.w + 4 * m.nIn * from, x, m.nIn, to - from),
      };
    case "rows-bf16":
      return {
        units: m.nOut,
        active: m.nIn,
        run(k, from, to, scratch) {
          k.gemvRowsBf16(y + 4 * from, m.w + 2 * m.nIn * from, x, m.nIn, to - from, scratch);
        },
      };
    case "pairs-i8": {
      if (threshold >= 0) throw new Error("pairs-i8 reads all channels");
      const factor = m.channelScale === 0 ? s.ones : m.channelScale, nIn = m.nInPadded;
      const unit = k.quantizeI16(s.quantised, x, factor, m.nIn, nIn), sum = k.sumI16(s.quantised, nIn);
      return {
        units: m.nOutPadded / 16,
        active: m.nIn,
        run(k, from, to) {
          const at = 64 * from, w = m.w + 16 * nIn * from;
          k.gemvPairsI8(y + at, w, s.quantised, m.rowScale + at, unit, sum, nIn, 16 * (to - from));
        },
      };
    }
  }
}

/**
 * y = the sum of a product over segments that are added up apart: columns are contiguous memory, outputs are not, and memory is only fast when it
 * is read in a row.
 *
 * @param y       f32 or i32 [nOut], as `add` has it
 * @param bounds  where segments begin and the last one ends, in channels or entries of a list
 * @param segment y += the product from one bound to the next
 */
function inSegments(
  s: Workspace,
  y: number,
  nOut: number,
  bounds: readonly number[],
  segment: (k: PartKernels, y: number, from: number, to: number) => void,
  add: Kernels["addF32"],
): Pick<VectorProduct, "units" | "run"> & { readonly finish: () => void } {
  const count = bounds.length - 1;
  return {
    units: count,
    run(k, from, to) {
      for (let i = from; i < to; i++) {
        const out = i === 0 ? y : s.partials + s.partialBytes * (i - 1);
        k.fillZeroF32(out, nOut);
        segment(k, out, bounds[i]!, bounds[i + 1]!);
      }
    },
    finish() {
      for (let i = 1; i < count; i++) add(y, s.partials + s.partialBytes * (i - 1), nOut);
    },
  };
}

/** Cuts 0 to n into even segments, of at least 256 unless it is said how many, all but the last a multiple of `step` long. */
function evenBounds(
  n: number,
  step: number,
  count: number = Math.min(MAX_SEGMENTS, Math.max(1, n >> 8)),
): number[] {
  const bounds = [0];
  for (let i = 1; i < count; i++) bounds.push(Math.floor(n * i / count / step) * step);
  bounds.push(n);
  return bounds;
}

/** Segments end at the same channels whether all are read or a list, so that the result is the same to the bit. */
function prepareFloatChannels(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  x: number,
  scale: number,
  threshold: number,
): VectorProduct {
  const { addF32 } = team.kernels, isF32 = m.layout === "channels-f32", channels = evenBounds(m.nIn, 8);
  if (threshold < 0) {
    const column = m.nOutPadded * (isF32 ? 4 : 2), layout = isF32 ? "channels-f32" : "channels-bf16";
    const sum = inSegments(s, y, m.nOutPadded, channels, (k, out, from, to) => {
      addAllChannels(k, s, layout, out, m.w + column * from, x + 4 * from, to - from, m.nOut);
    }, addF32);
    return { ...sum, active: m.nIn };
  }
  const active = s.select("list", x, scale, threshold, m.nIn), entries = s.entriesAt(channels, active);
  const sum = inSegments(s, y, m.nOutPadded, entries, (k, out, from, to) => {
    const product = isF32 ? k.gemvChannelsF32 : k.gemvChannelsBf16;
    product(out, m.w, s.index + 4 * from, s.value + 4 * from, to - from, m.nOut, m.nOutPadded);
  }, addF32);
  return { ...sum, active };
}

/** Chunks of one block: any range of outputs is contiguous. */
function groupBlocks(
  s: Workspace,
  m: Matrix,
  y: number,
  isDense: boolean,
): Pick<VectorProduct, "units" | "run"> {
  const pairBytes = groupBlockBytes(m.withMins), blockBytes = m.nInPadded / 64 * pairBytes;
  const mins = m.withMins ? 1 : 0;
  return {
    units: m.nOutPadded / 64,
    run(k, from, to, scratch) {
      const at = 256 * from, n = 64 * (to - from), product = isDense ? k.gemvGroupI4 : k.gemvGroupI4List;
      k.fillZeroF32(y + at, n);
      for (let b = from; b < to; b++) {
        product(y + 256 * b, m.w + blockBytes * b, s.table, m.nInPadded, 1, pairBytes, mins, scratch);
      }
      k.scaleRowsF32(y + at, m.rowScale + at, n);
    },
  };
}

/** Larger chunks: their pairs of groups are cut into segments, which is contiguous memory too. */
function groupChunks(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  isDense: boolean,
): Omit<VectorProduct, "active"> {
  const { chunk } = m, pairs = m.nInPadded / 64, pairBytes = chunk / 64 * groupBlockBytes(m.withMins);
  const count = pairs >= 16 ? MAX_SEGMENTS : pairs >= 2 ? 2 : 1, mins = m.withMins ? 1 : 0;
  return {
    units: m.nOutPadded / chunk * count,
    run(k, from, to, scratch) {
      const product = isDense ? k.gemvGroupI4 : k.gemvGroupI4List;
      for (let i = from; i < to; i++) {
        const c = Math.floor(i / count), segment = i % count, first = Math.floor(pairs * segment / count);
        const n = Math.floor(pairs * (segment + 1) / count) - first,
          w = m.w + pairBytes * (pairs * c + first);
        const out = (segment === 0 ? y : s.partials + s.partialBytes * (segment - 1)) + 4 * chunk * c;
        k.fillZeroF32(out, chunk);
        product(out, w, s.table + 64 * first, 64 * n, chunk / 64, pairBytes, mins, scratch);
      }
    },
    finish() {
      const { addF32, scaleRowsF32 } = team.kernels;
      for (let i = 1; i < count; i++) addF32(y, s.partials + s.partialBytes * (i - 1), m.nOutPadded);
      scaleRowsF32(y, m.rowScale, m.nOutPadded);
    },
  };
}

/**
 * How a matrix runs by a sparse rule: `skip` reads active columns only, `stream` reads all of them and computes the active ones, `dense` sets
 * the other channels to 0 and multiplies all. In the baseline build the result is the same to the bit.
 */
export type RunMethod = "dense" | "skip" | "stream";

/**
 * y = W x over the channels whose scale * |x| passes the threshold. With `dense`, x without them is left at `rest` of the workspace.
 *
 * @returns how many channels passed
 */
export function multiplyByRule(
  team: Team,
  s: Workspace,
  m: Matrix,
  method: RunMethod,
  y: number,
  x: number,
  scale: number,
  threshold: number,
): number {
  if (method !== "dense") return multiplyVector(team, s, m, y, x, scale, threshold);
  const k = team.kernels, active = k.maskChannelsF32(s.active, s.rest, x, scale, threshold, m.nIn);
  k.fillZeroF32(s.active + 4 * m.nIn, m.nInPadded - m.nIn);
  s.newInput();
  multiplyVector(team, s, m, y, s.active, s.ones, -1);
  s.newInput();
  return active;
}

/** Packs rows o … o + count - 1 from src f32[count, nIn]; where a layout has scales of channels, they have been divided out. */
export function packRows(k: Kernels, m: Matrix, src: number, o: number, count: number): void {
  const { layout, w, nIn, nOut } = m;
  if (layout === "channels-f32") k.packChannelsF32(w, src, o, count, nIn, nOut);
  else if (layout === "channels-bf16") k.packChannelsBf16(w, src, o, count, nIn, nOut);
  else if (layout === "rows-bf16") k.packBf16(w + 2 * o * nIn, src, count * nIn);
  else if (layout === "pairs-i8") k.packPairsI8(w, m.rowScale, src, o, count, nIn, m.nInPadded);
  else if (layout === "rows-f32") {
    new Uint8Array(k.memory.buffer).copyWithin(w + 4 * o * nIn, src, src + 4 * count * nIn);
  } else throw new Error(`${layout} is not packed row by row from floats`);
}

/** y f32[nIn] = row o of the embedding. */
export function readRow(k: Kernels, m: Matrix, y: number, o: number): void {
  if (m.layout === "rows-f32") {
    new Uint8Array(k.memory.buffer).copyWithin(y, m.w + 4 * o * m.nIn, m.w + 4 * (o + 1) * m.nIn);
  } else if (m.layout === "rows-bf16") k.readRowBf16(y, m.w + 2 * o * m.nIn, m.nIn);
  else k.readRowPairsI8(y, m.w, m.rowScale, o, m.nIn, m.nInPadded);
}
