/** What a calibration keeps of its work, so that one that was cut short goes on and ends with the same recipe. */

/** Bytes by name. What was put is there whole or not at all, also for a process that comes after one that died. */
export interface Checkpoint {
  /** What was put under a name last; null: nothing. */
  get(name: string): Promise<Uint8Array | null>;
  /** Keeps bytes under a name, instead of what was there. */
  put(name: string, bytes: Uint8Array): Promise<void>;
}

/** Arrays one after the other. */
export function concatBytes(arrays: readonly (Float32Array | Uint32Array)[]): Uint8Array {
  const all = new Uint8Array(arrays.reduce((sum, { byteLength }) => sum + byteLength, 0));
  let at = 0;
  for (const { buffer, byteOffset, byteLength } of arrays) {
    all.set(new Uint8Array(buffer, byteOffset, byteLength), at);
    at += byteLength;
  }
  return all;
}

/** Bytes as floats; a copy, since they may begin anywhere. */
export function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}
