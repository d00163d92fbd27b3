/** A Llama from a llama2.c checkpoint and its tokenizer file. */
import { FormatError } from "../errors.ts";
import { openLlama2c } from "../format/llama2c.ts";
import { MAX_STRING_BYTES } from "../format/limits.ts";
import { assembleLlama, HF_NAMES } from "./assemble.ts";
import type { LlamaConfig } from "./config.ts";
import type { LlamaDescription } from "./llama.ts";
import type { NamedBlob } from "./named_blob.ts";
import { llama2cTokenizer } from "./tokenizer_llama2c.ts";

/**
 * Opens a llama2.c checkpoint as a Llama. What its header does not say, llama2.c's `run.c` fixes: base 10000, epsilon 1e-5.
 *
 * @throws {FormatError} If a file is broken, or they are not of one model.
 */
export async function openLlama2cModel(
  model: NamedBlob,
  tokenizer: NamedBlob,
  name: string,
): Promise<LlamaDescription> {
  const checkpoint = await openLlama2c(model.blob, model.name);
  const { dim, hiddenDim, nLayers, nHeads, nKvHeads, vocabSize, seqLen, sharedClassifier } =
    checkpoint.header;
  const headDim = dim / nHeads;
  if (headDim % 4 !== 0) {
    throw new FormatError(
      model.name,
      12,
      `${nHeads} heads of ${headDim} found, heads of a multiple of 4 wanted`,
    );
  }
  const config: LlamaConfig = {
    architecture: "llama",
    hiddenSize: dim,
    intermediateSize: hiddenDim,
    numHiddenLayers: nLayers,
    numAttentionHeads: nHeads,
    numKeyValueHeads: nKvHeads,
    headDim,
    vocabSize,
    maxPositionEmbeddings: seqLen,
    rmsNormEps: 1e-5,
    ropeTheta: 10000,
    ropeDim: headDim,
    ropeScaling: { type: "none" },
    ropeInterleaved: true,
    tieWordEmbeddings: sharedClassifier,
  };
  if (tokenizer.blob.size > MAX_STRING_BYTES) {
    const wanted = `at most ${MAX_STRING_BYTES} wanted: not a llama2.c tokenizer`;
    throw new FormatError(tokenizer.name, 0, `${tokenizer.blob.size} bytes found, ${wanted}`);
  }
  const assembled = assembleLlama(
    checkpoint,
    config,
    HF_NAMES,
    { file: model.name, tableOffset: 0, offsetOf: (tensor) => tensor.offset, whyNot: () => null },
    () => false,
  );
  return {
    name,
    config,
    checkpoint,
    ...assembled,
    tokenizer: llama2cTokenizer(
      new Uint8Array(await tokenizer.blob.arrayBuffer()),
      vocabSize,
      tokenizer.name,
    ),
    chatTemplate: null,
    license: null,
  };
}
