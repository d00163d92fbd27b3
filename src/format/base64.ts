/** Bytes as text: kernels inside modules, and what search and evaluation send as JSON. */

/** What {@linkcode fromBase64} reads. */
export function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

/**
 * What {@linkcode toBase64} made.
 *
 * @throws {Error} If it is no base64.
 */
export function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  // newer than the oldest engines that this runs on, such as Node 20
  const { fromBase64: own } = Uint8Array as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> };
  if (own !== undefined) return own.call(Uint8Array, text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}
