/** A model from its files, whatever they are. */
import { FormatError } from "../errors.ts";
import { readBytes } from "../format/bytes_blob.ts";
import { readU64 } from "../format/limits.ts";
import { isPack } from "../format/pack.ts";
import type { LlamaDescription } from "./llama.ts";
import { baseName, folderOf, type NamedBlob, stemOf } from "./named_blob.ts";
import { openFolderModel } from "./open_folder.ts";
import { openGgufModel } from "./open_gguf.ts";
import { openLlama2cModel } from "./open_llama2c.ts";
import { openPackModel } from "./open_pack.ts";

export type { NamedBlob } from "./named_blob.ts";

/**
 * Opens a model: reads tables, configuration and tokenizer, and checks them against each other. No weight is read.
 *
 * The files are one GGUF file; or those of a Hugging Face folder: `config.json`, `tokenizer.json`, safetensors (with an index
 * where there are several), and as far as they are there `tokenizer_config.json`, `generation_config.json`,
 * `special_tokens_map.json`, `chat_template.jinja`; or a llama2.c checkpoint and its tokenizer; or a pack. Which, their contents say.
 *
 * @throws {FormatError} If a file is broken, missing, or contradicts another, or the model is of a kind that cannot be run.
 * @throws {RangeError} If no file is given.
 * @example
 * ```ts ignore
 * const model = await openModel([{ name: "model.gguf", blob: await openAsBlob("model.gguf") }]);
 * console.log(model.config.numHiddenLayers, model.quantization);
 * ```
 */
export async function openModel(files: readonly NamedBlob[]): Promise<LlamaDescription> {
  const first = files[0];
  if (first === undefined) throw new RangeError("no file given, a model's files wanted");
  const kinds = await Promise.all(files.map(kindOf));
  if (files.length === 1 && kinds[0] === "pack") {
    return openPackModel(first.blob, first.name, stemOf(first.name));
  }
  const gguf = files.filter((_, i) => kinds[i] === "gguf");
  if (gguf.length > 1) {
    throw new FormatError(
      gguf[1]!.name,
      0,
      `a second GGUF file beside ${gguf[0]!.name}: name the one to open`,
    );
  }
  if (gguf[0] !== undefined) return openGgufModel(gguf[0].blob, gguf[0].name, stemOf(gguf[0].name));

  const folder = folderOf(first.name);
  const weights = files.filter((_, i) => kinds[i] === "safetensors");
  if (weights.length > 0 || files.some((file) => baseName(file.name) === "config.json")) {
    return openFolderModel(files, weights, files.length === 1 ? first.name : folder, baseName(folder));
  }
  const bins = files.filter((file) => file.name.endsWith(".bin")).sort((a, b) => b.blob.size - a.blob.size);
  if (bins.length === 2) return openLlama2cModel(bins[0]!, bins[1]!, stemOf(bins[0]!.name));
  throw new FormatError(
    first.name,
    0,
    bins.length === 1
      ? "a llama2.c checkpoint is opened together with its tokenizer .bin: give both"
      : "neither a GGUF file, nor a pack, nor safetensors with config.json, nor a llama2.c checkpoint with its tokenizer",
  );
}

/** By content; by name where a file is too broken to say. */
async function kindOf({ name, blob }: NamedBlob): Promise<"gguf" | "safetensors" | "pack" | "other"> {
  const first = await readBytes(blob, 0, Math.min(9, blob.size));
  if (isPack(first)) return "pack";
  const view = new DataView(first.buffer, first.byteOffset, first.length);
  if (view.byteLength >= 4 && view.getUint32(0) === 0x47475546) return "gguf"; // "GGUF"
  if (view.byteLength === 9 && view.getUint8(8) === 0x7b && readU64(view, 0) <= blob.size - 8) {
    return "safetensors"; // "{"
  }
  const ending = /\.(gguf|safetensors|rsparse)$/i.exec(baseName(name))?.[1]?.toLowerCase();
  if (ending === "rsparse") return "pack";
  return ending === "gguf" || ending === "safetensors" ? ending : "other";
}
