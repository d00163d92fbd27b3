/** int8 matrices in a file as the kernels read them (`kernels.ts` draws the layouts): what a pack holds in place of rows. */
import { FormatError } from "../errors.ts";
import { readInto } from "./bytes_blob.ts";
import { checksum } from "./checksum.ts";

/** How one is laid out: projections by channels, which serve skipping; the embedding and the head in pairs. */
export type StoredLayout = "channels-i8" | "pairs-i8";

/** A matrix in a file: its bytes, then f32 scales of its outputs and, by channels, of its channels, each padded as {@linkcode storedSizes} says. */
export interface StoredMatrix {
  readonly layout: StoredLayout;
  readonly nIn: number;
  readonly nOut: number;
  readonly blob: Blob;
  /** The file's name, for errors. */
  readonly file: string;
  readonly offset: number;
  readonly sum: string;
}

/** Padded sizes, and bytes of each part in their order. */
export interface StoredSizes {
  readonly nInPadded: number;
  readonly nOutPadded: number;
  readonly w: number;
  readonly rowScale: number;
  readonly channelScale: number;
  readonly bytes: number;
}

/** How large it is. */
export function storedSizes(
  { layout, nIn, nOut }: Pick<StoredMatrix, "layout" | "nIn" | "nOut">,
): StoredSizes {
  const pad = (n: number, to: number): number => Math.ceil(n / to) * to, byChannel = layout === "channels-i8";
  const nInPadded = pad(nIn, 32), nOutPadded = pad(nOut, byChannel ? 32 : 16);
  const w = nInPadded * nOutPadded, rowScale = 4 * nOutPadded, channelScale = byChannel ? 4 * nInPadded : 0;
  return { nInPadded, nOutPadded, w, rowScale, channelScale, bytes: w + rowScale + channelScale };
}

/**
 * Reads all bytes of a matrix to `target`, which is as long.
 *
 * @throws {FormatError} If they are not those that were written, or a scale is not finite.
 */
export async function readStored(matrix: StoredMatrix, target: Uint8Array): Promise<void> {
  const { blob, file, offset, sum } = matrix, { w, bytes } = storedSizes(matrix);
  const found = await readInto(blob, offset, target);
  if (found !== bytes) {
    throw new FormatError(
      file,
      offset + found,
      "the file ended inside a matrix: did it change while it was read?",
    );
  }
  if (checksum(target) !== sum) throw damaged(file, offset, bytes);
  const scales = floatsOf(target.subarray(w));
  for (let i = 0; i < scales.length; i++) {
    // of infinities and of what is no number it is no number
    if (scales[i]! - scales[i]! !== 0) {
      throw new FormatError(file, offset + w + 4 * i, "a scale that is not finite");
    }
  }
}

function floatsOf(bytes: Uint8Array): Float32Array {
  const { buffer, byteOffset, length } = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  return new Float32Array(buffer, byteOffset, length / 4);
}

/** The error for bytes whose checksum is not the one that was written with them. */
export function damaged(file: string, offset: number, bytes: number): FormatError {
  return new FormatError(
    file,
    offset,
    `the ${bytes} bytes from here are not those that were written (checksum): the file is damaged, get or make it again`,
  );
}

/** Rows `[first, first + count)` of a matrix as floats, row-major. Errors as {@linkcode readStored}. */
export async function readStoredRows(
  matrix: StoredMatrix,
  first: number,
  count: number,
): Promise<Float32Array> {
  const data = new Uint8Array(storedSizes(matrix).bytes);
  await readStored(matrix, data);
  return rowsOfStored(matrix, data, first, count);
}

function rowsOfStored(
  matrix: StoredMatrix,
  data: Uint8Array,
  first: number,
  count: number,
): Float32Array {
  const { layout, nIn } = matrix,
    { nInPadded, nOutPadded, w, rowScale } = storedSizes(matrix);
  const scales = floatsOf(data.subarray(w)), channels = scales.subarray(rowScale / 4);
  const out = new Float32Array(count * nIn);
  for (let r = 0; r < count; r++) {
    const o = first + r, scale = scales[o]!;
    for (let c = 0; c < nIn; c++) {
      const [at, biased] = layout === "channels-i8"
        ? [c * nOutPadded + o, o % 2 === 0]
        : [pairsAt(o, c, nInPadded), (o >> 2) % 2 === 0];
      const value = biased ? data[at]! - 128 : data[at]! << 24 >> 24;
      out[r * nIn + c] = layout === "channels-i8" ? Math.fround(scale * channels[c]!) * value : scale * value;
    }
  }
  return out;
}

function pairsAt(o: number, c: number, nInPadded: number): number {
  return (o & ~15) * nInPadded + ((o & 8) << 1) + ((o & 3) << 2) + ((o >> 2) & 1) + (c >> 1) * 32 +
    (c & 1) * 2;
}
