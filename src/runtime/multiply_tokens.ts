/** y = x W^T for many tokens: weights are unpacked once for all of them, panel by panel, and panels are shared out among threads. */
import { GROUP, padTo, QUAD_TOKENS_RECORD, quadPanelBytes } from "../kernels/kernels.ts";
import type { PartKernels } from "../kernels/recorder.ts";
import type { Team } from "../kernels/team.ts";
import type { Matrix } from "./matrix.ts";
import type { Workspace } from "./workspace.ts";

/** Multiply-adds after which work on many tokens yields: 5 to 20 ms. */
export const YIELD_AFTER: number = 2 ** 28;

/** Outputs a step: their calls fit a job of 64 KB in every layout (at most 7.5 bytes an output). */
const MAX_OUTPUTS = 4096;

/** Products are computed for tokens in fours. */
export const FOUR = 4;

/** Some outputs of a matrix: `from` is a multiple of 64, `to` one too or the matrix's end. */
export interface Outputs {
  readonly from: number;
  readonly to: number;
}

/** y f32[nTokens rounded up to 4, yStride] = 0 in the outputs of m, or some of them. */
export function clearTokens(
  team: Team,
  y: number,
  yStride: number,
  m: Matrix,
  nTokens: number,
  outputs: Outputs = { from: 0, to: m.nOutPadded },
): void {
  const at = y + 4 * outputs.from, n = padTo(Math.min(outputs.to, m.nOutPadded), 8) - outputs.from;
  team.each(padTo(nTokens, FOUR), (k, from, to) => {
    for (let t = from; t < to; t++) k.fillZeroF32(at + 4 * yStride * t, n);
  });
}

/** Bytes of a part's scratch for panels of inputs up to `widest` channels: the largest are 64 outputs of bytes or 8 of floats, with their scales. */
export function panelScratchBytes(widest: number): number {
  return Math.max(8 * quadPanelBytes(widest), 64 * widest + 2 * 4 * 64 * widest / GROUP);
}

/** What a product is of: see {@linkcode multiplyTokens}. */
interface Operands {
  readonly team: Team;
  readonly s: Workspace;
  readonly m: Matrix;
  readonly y: number;
  readonly yStride: number;
  readonly x: number;
  readonly xStride: number;
  readonly nTokens: number;
}

/** Unpacks and multiplies outputs o to o + width. */
type Product = (k: PartKernels, scratch: number, o: number) => void;

/**
 * y = x W^T for many tokens, all channels. Yields between pieces of some milliseconds of work.
 *
 * @param y f32[nTokens rounded up to 4, yStride], its first m.nOut rounded up to 8 overwritten
 * @param x f32[nTokens, xStride], zero from nIn to nInPadded
 * @param exactFirst whether the first token is the first of its sequence, whose activations are too large for 8 bits: where tokens are quantised to
 *   as many, what that leaves of this one is quantised again and multiplied too
 * @param outputs those that are wanted; default all
 */
export function* multiplyTokens(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  yStride: number,
  x: number,
  xStride: number,
  nTokens: number,
  exactFirst: boolean,
  outputs: Outputs = { from: 0, to: m.nOutPadded },
): Generator<void, void> {
  const operands = { team, s, m, y, yStride, x, xStride, nTokens };
  if (m.layout === "quad-i4" || (m.layout === "group-i4" && team.kernels.build === "relaxed")) {
    return yield* runProduct(operands, byteProduct(operands, exactFirst), outputs);
  }
  clearTokens(team, y, yStride, m, nTokens, outputs);
  yield* runProduct(operands, sumProduct(operands), outputs);
}

/**
 * y += x W^T for many tokens and a factor, which is never int4; otherwise as {@linkcode multiplyTokens}.
 *
 * @param x f32[nTokens, xStride]
 */
export function* addTokens(
  team: Team,
  s: Workspace,
  m: Matrix,
  y: number,
  yStride: number,
  x: number,
  xStride: number,
  nTokens: number,
): Generator<void, void> {
  const operands = { team, s, m, y, yStride, x, xStride, nTokens };
  yield* runProduct(operands, sumProduct(operands), { from: 0, to: m.nOutPadded });
}

/** A product that adds to y. */
function sumProduct(operands: Operands): [width: number, product: Product] {
  const { layout } = operands.m;
  // factors in int8 too: their products are short, and rounding tokens to integers for each of them takes longer than it saves
  return operands.m.isFactor || layout.endsWith("f32") || layout.endsWith("bf16")
    ? floatProduct(operands)
    : integerProduct(operands);
}

/** All panels of some outputs, shared out among threads. */
function* runProduct(
  { team, m, nTokens }: Operands,
  [width, product]: [width: number, product: Product],
  outputs: Outputs,
): Generator<void, void> {
  const begin = outputs.from / width, units = Math.ceil(Math.min(outputs.to, padTo(m.nOut, 8)) / width);
  const work = width * nTokens * m.nInPadded;
  // as many for each thread, where that is few
  const step = Math.min(padTo(Math.ceil(YIELD_AFTER / work), team.threads), MAX_OUTPUTS / width);
  for (let first = begin; first < units; first += step) {
    team.each(Math.min(step, units - first), (k, from, to, scratch) => {
      for (let i = first + from; i < first + to; i++) product(k, scratch, width * i);
    });
    if (first + step < units) yield;
  }
}

/** Fours of tokens, packed by several threads. */
function packTokens(
  team: Team,
  nTokens: number,
  pack: (k: PartKernels, four: number, nTokens: number) => void,
): void {
  team.each(Math.ceil(nTokens / FOUR), (k, from, to) => {
    pack(k, from, Math.min(nTokens - FOUR * from, FOUR * (to - from)));
  });
}

/** int4 in the relaxed build: bytes of nibbles by 8-bit activations. */
function byteProduct(
  { team, s, m, y, yStride, x, xStride, nTokens }: Operands,
  exactFirst: boolean,
): [width: number, product: Product] {
  const { nInPadded: nIn, w, rowScale, chunk } = m, mins = m.withMins ? 1 : 0;
  const recordBytes = nIn / 64 * QUAD_TOKENS_RECORD;
  packTokens(team, nTokens, (k, four, n) => {
    k.packTokensQuadI4(s.packed + recordBytes * four, x + 4 * FOUR * xStride * four, n, xStride, nIn);
  });
  if (exactFirst) {
    team.kernels.restQuadI4(s.firstRest, x, nIn);
    team.kernels.packTokensQuadI4(s.firstPacked, s.firstRest, 1, nIn, nIn);
  }
  const isQuad = m.layout === "quad-i4", width = isQuad ? 16 : 64;
  return [width, (k, panels, o) => {
    if (isQuad) k.unpackQuadI4(panels, w, rowScale, mins, o, nIn);
    else k.unpackGroupQuadI4(panels, w, rowScale, mins, o, nIn, chunk);
    k.gemmQuadI4(y + 4 * o, s.packed, panels, nTokens, yStride, nIn, width, 0);
    if (exactFirst) k.gemmQuadI4(y + 4 * o, s.firstPacked, panels, 1, yStride, nIn, width, 1);
  }];
}

/** Floats: panels of 8 outputs. */
function floatProduct(
  { team, s, m, y, yStride, x, xStride, nTokens }: Operands,
): [width: number, product: Product] {
  const { nIn, nOut, w, layout, rowScale } = m, channelScale = m.channelScale === 0 ? s.ones : m.channelScale;
  packTokens(team, nTokens, (k, four, n) => {
    k.packTokensF32(s.packed + 4 * FOUR * nIn * four, x + 4 * FOUR * xStride * four, n, xStride, nIn);
  });
  return [8, (k, panel, o) => {
    if (layout === "channels-f32") k.unpackChannelsF32(panel, w, o, nIn, nOut);
    else if (layout === "channels-bf16") k.unpackChannelsBf16(panel, w, o, nIn, nOut);
    else if (layout === "rows-f32") k.unpackRowsF32(panel, w, o, nIn, nOut);
    else if (layout === "pairs-i8") k.unpackPairsF32(panel, w, rowScale, channelScale, o, nIn, m.nInPadded);
    else k.unpackRowsBf16(panel, w, o, nIn, nOut);
    k.gemmF32(y + 4 * o, s.packed, panel, nTokens, yStride, nIn);
  }];
}

/** int8, and int4 in the baseline build: i8 panels by 15-bit activations. */
function integerProduct(
  { team, s, m, y, yStride, x, xStride, nTokens }: Operands,
): [width: number, product: Product] {
  const { w, rowScale, chunk, layout, nOutPadded } = m,
    mins = m.withMins ? 1 : 0,
    nIn = m.nInPadded;
  const factor = m.channelScale === 0 ? s.ones : m.channelScale, scales = 4 * FOUR * nIn / GROUP;
  packTokens(team, nTokens, (k, four, n) => {
    const at = scales * four, from = x + 4 * FOUR * xStride * four;
    k.packTokensI16(
      s.packed + 2 * FOUR * nIn * four,
      s.tokenScale + at,
      s.tokenSum + at,
      from,
      factor,
      n,
      xStride,
      nIn,
    );
  });
  const width = layout === "group-i4" ? 64 : layout === "channels-i8" ? 32 : 16;
  return [width, (k, panels, o) => {
    const d = panels + width * nIn, mAt = d + width * nIn / 8;
    if (layout === "group-i4") k.unpackGroupI4(panels, d, mAt, w, rowScale, mins, o, nIn, chunk);
    else if (layout === "channels-i8") k.unpackChannelsI8(panels, d, mAt, w, rowScale, o, nIn, nOutPadded);
    else k.unpackPairsI8(panels, d, mAt, w, rowScale, o, nIn);
    for (let j = 0; j < width && o + j < m.nOut; j += 8) {
      const panel = panels + j * nIn, at = j / 8 * nIn;
      k.gemmI16(
        y + 4 * (o + j),
        s.packed,
        s.tokenScale,
        s.tokenSum,
        panel,
        d + at,
        mAt + at,
        nTokens,
        yStride,
        nIn,
      );
    }
  }];
}
