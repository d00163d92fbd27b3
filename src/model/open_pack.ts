/** A Llama from a pack. */
import { FormatError } from "../errors.ts";
import { BytesBlob } from "../format/bytes_blob.ts";
import { isJsonObject, type JsonObject, parseJsonObject } from "../format/json.ts";
import { MAX_LAYERS, MAX_VOCABULARY, MAX_WIDTH } from "../format/limits.ts";
import { openPack, type PackCheckpoint, readPart } from "../format/pack.ts";
import { assembleLlama, checkHeads, HF_NAMES } from "./assemble.ts";
import type { LlamaConfig, RopeScaling } from "./config.ts";
import { fieldError, type Fields, flagField, integerField, positiveField, textField } from "./fields.ts";
import type { LlamaDescription } from "./llama.ts";
import { storedTokenizer } from "./stored_tokenizer.ts";

const ARCHITECTURES = ["llama", "mistral", "qwen2"] as const;

/**
 * Opens a pack as a Llama.
 *
 * @param name What to call the model if the file does not say.
 * @throws {FormatError} If the file is cut or damaged, or its parts contradict each other.
 */
export async function openPackModel(blob: Blob, file: string, name: string): Promise<LlamaDescription> {
  const pack = await openPack(blob, file);
  const fields = fieldsOf(pack, pack.header, ""), config = readConfig(pack);
  const assembled = assembleLlama(
    pack,
    config,
    HF_NAMES,
    {
      file,
      tableOffset: pack.fieldOffset("tensors"),
      offsetOf: (tensor) => pack.fieldOffset(tensor.name),
      whyNot: () => null,
    },
    () => false,
  );
  const { tokenizer: part, recipe } = pack, bytes = await readPart(pack, part);
  const tokenizer = storedTokenizer(parseJsonObject(bytes, file, part.offset).value, file, part.offset);
  if (tokenizer.vocabSize > config.vocabSize) {
    const found = `${tokenizer.vocabSize} tokens found`;
    throw new FormatError(file, part.offset, `${found}, the embedding has ${config.vocabSize} rows`);
  }
  const modelHash = textField(fields, "modelHash");
  if (modelHash === null || !/^[0-9a-f]{64}$/.test(modelHash)) {
    throw fieldError(fields, "modelHash", "64 hex digits");
  }
  return {
    name: textField(fields, "name") ?? name,
    config,
    checkpoint: pack,
    ...assembled,
    tokenizer,
    chatTemplate: textField(fields, "chatTemplate"),
    license: textField(fields, "license"),
    card: textField(fields, "card"),
    modelHash,
    recipe: recipe === null
      ? null
      : { blob: new BytesBlob(await readPart(pack, recipe)), sha256: recipe.sha256 ?? null },
  };
}

/** The model's shape, as a pack keeps it: {@linkcode LlamaConfig} itself. */
function readConfig(pack: PackCheckpoint): LlamaConfig {
  const value = pack.header["config"];
  if (!isJsonObject(value)) throw fieldError(fieldsOf(pack, pack.header, ""), "config", "an object");
  const fields = fieldsOf(pack, value, "config.");
  const architecture = ARCHITECTURES.find((name) => name === value["architecture"]);
  if (architecture === undefined) throw fieldError(fields, "architecture", ARCHITECTURES.join(" or "));
  const width = (name: string): number => integerField(fields, name, MAX_WIDTH);
  const config: LlamaConfig = {
    architecture,
    hiddenSize: width("hiddenSize"),
    intermediateSize: width("intermediateSize"),
    numHiddenLayers: integerField(fields, "numHiddenLayers", MAX_LAYERS),
    numAttentionHeads: width("numAttentionHeads"),
    numKeyValueHeads: width("numKeyValueHeads"),
    headDim: width("headDim"),
    vocabSize: integerField(fields, "vocabSize", MAX_VOCABULARY),
    maxPositionEmbeddings: integerField(fields, "maxPositionEmbeddings", 2 ** 32 - 1),
    rmsNormEps: positiveField(fields, "rmsNormEps"),
    ropeTheta: positiveField(fields, "ropeTheta"),
    ropeDim: width("ropeDim"),
    ropeScaling: readScaling(pack, value["ropeScaling"], fields),
    ropeInterleaved: flagField(fields, "ropeInterleaved", false),
    tieWordEmbeddings: flagField(fields, "tieWordEmbeddings", false),
  };
  checkHeads(config, fields, { kvHeads: "numKeyValueHeads", headDim: "headDim", ropeDim: "ropeDim" });
  const { ropeScaling: scaling, ropeDim } = config;
  if (scaling.type === "factors" && scaling.factors.length !== ropeDim / 2) {
    throw fieldError(fields, "ropeScaling", `${ropeDim / 2} factors`);
  }
  return config;
}

function readScaling(pack: PackCheckpoint, value: unknown, config: Fields): RopeScaling {
  if (!isJsonObject(value)) throw fieldError(config, "ropeScaling", "an object");
  const fields = fieldsOf(pack, value, "config.ropeScaling.");
  switch (value["type"]) {
    case "none":
      return { type: "none" };
    case "linear":
      return { type: "linear", factor: positiveField(fields, "factor") };
    case "llama3": {
      const scaling = {
        type: "llama3",
        factor: positiveField(fields, "factor"),
        lowFreqFactor: positiveField(fields, "lowFreqFactor"),
        highFreqFactor: positiveField(fields, "highFreqFactor"),
        originalMaxPositionEmbeddings: positiveField(fields, "originalMaxPositionEmbeddings"),
      } as const;
      // the frequencies between are blended by (x - low) / (high - low)
      if (scaling.highFreqFactor > scaling.lowFreqFactor) return scaling;
      throw fieldError(fields, "highFreqFactor", `a number above ${scaling.lowFreqFactor}`);
    }
    case "factors": {
      const { factors } = value;
      const isFactor = (factor: unknown): factor is number =>
        typeof factor === "number" && factor > 0 && factor < Infinity;
      if (Array.isArray(factors) && factors.every(isFactor)) return { type: "factors", factors };
      throw fieldError(fields, "factors", "a list of numbers above 0");
    }
  }
  throw fieldError(fields, "type", "none, linear, llama3 or factors");
}

function fieldsOf(pack: PackCheckpoint, object: JsonObject, path: string): Fields {
  return {
    file: pack.file,
    get: (key) => Object.hasOwn(object, key) ? object[key] : undefined,
    offsetOf: (key) => pack.fieldOffset(path === "" ? key : path.split(".")[0]!),
  };
}
