/** Where the layouts of `kernels.ts` keep each weight. */
import { GROUP, groupBlockBytes, padTo, QUAD_RECORD, quadBlockBytes } from "../kernels.ts";

/** u16 index of weight (c, o) in channels bf16. */
export function bf16Lane(c: number, o: number, nOut: number): number {
  const within = o % 8;
  return c * padTo(nOut, 8) + (o - within) + 2 * (within % 4) + (within >> 2);
}

/** What is added to a weight before its byte is stored: 128 for even outputs of channels i8, 0 for odd ones. */
export function channelsI8Bias(o: number): number {
  return o % 2 === 0 ? 128 : 0;
}

/** Byte offset of weight (o, c) in pairs i8, nIn the padded one. */
export function pairsI8Offset(o: number, c: number, nIn: number): number {
  const block = Math.floor(o / 16) * (nIn / 2) + (c >> 1);
  const within = o % 8;
  const unit = 2 * (within % 4) + (c % 2);
  return block * 32 + ((o % 16) >> 3) * 16 + unit * 2 + (within >> 2);
}

/** What is added to a weight before its byte is stored: 128 in the low bytes of pairs i8, 0 in the high ones. */
export function pairsI8Bias(o: number): number {
  return o % 8 < 4 ? 128 : 0;
}

/** Byte offset of the block of group i4 that holds weight (o, c). */
export function groupI4Block(o: number, c: number, nIn: number, chunk: number, withMins: boolean): number {
  const pair = Math.floor(o / chunk) * (nIn / 64) + Math.floor(c / 64);
  return (pair * (chunk / 64) + Math.floor((o % chunk) / 64)) * groupBlockBytes(withMins);
}

/** Byte offset of the i16 scale of output o, group g in group i4; its min is {@linkcode GROUP_MINS} bytes on. */
export function groupI4Scale(o: number, g: number, nIn: number, chunk: number, withMins: boolean): number {
  return groupI4Block(o, g * GROUP, nIn, chunk, withMins) + (o % 64) * 4 + (g % 2) * 2;
}

/** Byte offset of the u16 with weight (o, c), baseline order; its nibble begins at bit `groupI4Shift(o)`. */
export function groupI4Unit(o: number, c: number, nIn: number, chunk: number, withMins: boolean): number {
  const header = withMins && c % 64 >= GROUP ? 512 : 256;
  return groupI4Block(o, c, nIn, chunk, withMins) + header + (c % 64) * 32 + ((o % 64) >> 5) * 16 +
    (o % 8) * 2;
}

/** First bit of output o's nibble in its u16, baseline order. */
export function groupI4Shift(o: number): number {
  return 4 * ((o % 32) >> 3);
}

/** Bytes from a scale of group i4 to its min. */
export const GROUP_MINS = 1280;

/** Byte offset of the i16 scale of output o, group g in quad i4; its min is 64 bytes on. */
export function quadI4Scale(o: number, g: number, nIn: number, withMins: boolean): number {
  const block = Math.floor(o / 16) * (nIn / 64) + (g >> 1);
  return block * quadBlockBytes(withMins) + (o % 16) * 4 + (g % 2) * 2;
}

/** Byte offset of weight (o, c) in quad i4; output o's nibble is the high one where o has bit 2. */
export function quadI4Byte(o: number, c: number, nIn: number, withMins: boolean): number {
  const block = Math.floor(o / 16) * (nIn / 64) + Math.floor(c / 64);
  const quad = (c % GROUP) >> 1;
  const byte = ((c % 64) >> 5) * 2 + c % 2;
  const head = withMins ? 128 : 64;
  return block * quadBlockBytes(withMins) + head + quad * 32 + ((o % 16) >> 3) * 16 + (o % 4) * 4 + byte;
}

/** Byte offset of channel c's i8 in the records. */
export function quadI4Activation(c: number): number {
  return Math.floor(c / 64) * QUAD_RECORD + ((c % GROUP) >> 1) * 4 + ((c % 64) >> 5) * 2 + c % 2;
}
