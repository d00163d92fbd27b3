/** Packs for tests, made of small models. */
import { detectPlatform } from "../../src/platform/detect.ts";
import { type NamedBlob, openModel } from "../../src/model/open.ts";
import type { Dtype } from "../../src/runtime/matrix.ts";
import { packModel, type PackOptions } from "../../src/runtime/pack_model.ts";

/** What a pack is to hold beside the model. */
export interface PackExtras {
  readonly recipe?: PackOptions["recipe"];
  readonly name?: string;
  readonly license?: string;
  readonly card?: string;
}

/** The bytes of a pack of a model. */
export async function packOf(
  files: readonly NamedBlob[],
  dtype: Dtype | "auto",
  extras: PackExtras = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const model = await openModel(files), platform = await detectPlatform();
  const modelHash = await platform.sha256(model.checkpoint.blobs);
  const { chunks, bytes } = await packModel(model, { dtype, modelHash, ...extras });
  const all = new Uint8Array(bytes);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
