/** One file out of a zip archive, streamed: wheels are zip archives. See PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16. */
import { FormatError } from "../errors.ts";

const END_BYTES = 22, ENTRY_BYTES = 46, LOCAL_BYTES = 30;
const END_MARK = 0x06054b50, ENTRY_MARK = 0x02014b50, LOCAL_MARK = 0x04034b50;
/** A directory larger than this is not one of a wheel: 32 MB are some 400,000 files. */
const MAX_DIRECTORY = 32 << 20;

/**
 * The bytes of the file called `name` in the archive.
 *
 * @param file The archive's name, for errors.
 * @throws {FormatError} If `zip` is no zip archive, lacks the file, or stores it in a way that is neither plain nor deflated.
 */
export async function openZipEntry(
  zip: Blob,
  name: string,
  file: string,
): Promise<{ size: number; stream: ReadableStream<Uint8Array> }> {
  // The end record is followed by a comment of at most 65,535 bytes.
  const tailStart = Math.max(0, zip.size - END_BYTES - 0xffff);
  const tail = await view(zip, tailStart, zip.size);
  let at = tail.byteLength - END_BYTES;
  while (at >= 0 && tail.getUint32(at, true) !== END_MARK) at--;
  if (at < 0) {
    throw new FormatError(file, tailStart, "no end of a zip directory found: it is cut, or no zip archive");
  }
  const directoryBytes = tail.getUint32(at + 12, true), directoryStart = tail.getUint32(at + 16, true);
  if (directoryBytes > MAX_DIRECTORY || directoryStart + directoryBytes > tailStart + at) {
    throw new FormatError(
      file,
      tailStart + at,
      `a directory of ${directoryBytes} bytes at ${directoryStart} does not fit the file`,
    );
  }

  const directory = await view(zip, directoryStart, directoryStart + directoryBytes);
  for (let entry = 0; entry + ENTRY_BYTES <= directory.byteLength;) {
    if (directory.getUint32(entry, true) !== ENTRY_MARK) {
      throw new FormatError(file, directoryStart + entry, "an entry of the zip directory wanted");
    }
    const nameBytes = directory.getUint16(entry + 28, true);
    const next = entry + ENTRY_BYTES + nameBytes + directory.getUint16(entry + 30, true) +
      directory.getUint16(entry + 32, true);
    if (next > directory.byteLength) {
      throw new FormatError(file, directoryStart + entry, "an entry leaves the zip directory");
    }
    const found = new TextDecoder().decode(new Uint8Array(directory.buffer, entry + ENTRY_BYTES, nameBytes));
    if (found === name) return await openEntry(zip, directory, entry, directoryStart, file);
    entry = next;
  }
  throw new FormatError(file, directoryStart, `no file ${name} in it`);
}

async function openEntry(
  zip: Blob,
  directory: DataView,
  entry: number,
  directoryStart: number,
  file: string,
): Promise<{ size: number; stream: ReadableStream<Uint8Array> }> {
  const method = directory.getUint16(entry + 10, true);
  const packed = directory.getUint32(entry + 20, true), size = directory.getUint32(entry + 24, true);
  const localStart = directory.getUint32(entry + 42, true);
  const fault = (detail: string): FormatError => new FormatError(file, directoryStart + entry, detail);
  if (method !== 0 && method !== 8) {
    throw fault(`compression method ${method} found, 0 (stored) or 8 (deflated) wanted`);
  }
  if (localStart + LOCAL_BYTES > directoryStart) throw fault(`data at ${localStart} leaves the file`);
  const local = await view(zip, localStart, localStart + LOCAL_BYTES);
  if (local.getUint32(0, true) !== LOCAL_MARK) throw fault(`no file begins at ${localStart}`);
  const start = localStart + LOCAL_BYTES + local.getUint16(26, true) + local.getUint16(28, true);
  if (start + packed > directoryStart) throw fault(`${packed} bytes at ${start} leave the file`);
  const stream = zip.slice(start, start + packed).stream();
  return { size, stream: method === 0 ? stream : stream.pipeThrough(new DecompressionStream("deflate-raw")) };
}

async function view(blob: Blob, start: number, end: number): Promise<DataView> {
  return new DataView(await blob.slice(start, end).arrayBuffer());
}
