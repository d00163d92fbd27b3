/**
 * A model for the tests of what embeds one, as long as `models/tiny.rsparse` is not in the repository: of tiny's shape, with random weights. It lies where tiny
 * would, since that is what is tested: that code finds it there, with few permissions, in bundles, in programs.
 */
import { spawnSync } from "node:child_process";
import { Buffer } from "node:buffer";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { TINY } from "../../bench/shapes.ts";
import { type SafetensorsInput, writeSafetensors } from "../../src/format/safetensors.ts";
import { HF_NAMES } from "../../src/model/assemble.ts";
import { byteLevelChar } from "../../src/model/byte_level.ts";
import { PROJECTIONS, projectionShape } from "../../src/model/config.ts";
import { cliCommand, thisRuntime } from "./runtimes.ts";
import { rootPath } from "./shared.ts";

const PACK = rootPath("models/tiny.rsparse");
const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/** Makes it where there is no tiny; returns what takes it away again. */
export function standInForTiny(): () => void {
  if (existsSync(PACK)) return () => {};
  const folder = mkdtempSync(join(tmpdir(), "rsparse-stand-in-")), model = join(folder, "tiny");
  const remove = (): void => rmSync(PACK, { force: true });
  process.once("exit", remove);
  try {
    writeModel(model);
    const recipe = join(folder, "recipe.safetensors"), out = `${PACK}.tmp`;
    const common = ["-m", model, "--quiet", "-o"];
    run(["calibrate", ...common, recipe, "--tokens", "512", "--sparsity", "0.5", "--dtype", "int8"]);
    run(["pack", ...common, out, "--recipe", recipe, "--dtype", "int8"]);
    renameSync(out, PACK);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return remove;
}

function run(args: readonly string[]): void {
  const [program, ...first] = cliCommand(thisRuntime());
  const { status, stderr } = spawnSync(program!, [...first, ...args], { encoding: "utf8" });
  if (status !== 0) throw new Error(`rsparse ${args.join(" ")}: exit status ${status}: ${stderr}`);
}

function writeModel(folder: string): void {
  mkdirSync(folder);
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  write("config.json", {
    ...{ model_type: "llama", vocab_size: TINY.vocabSize, hidden_size: TINY.hiddenSize },
    ...{ intermediate_size: TINY.intermediateSize, num_hidden_layers: TINY.numHiddenLayers },
    ...{ num_attention_heads: TINY.numAttentionHeads, num_key_value_heads: TINY.numKeyValueHeads },
    ...{ max_position_embeddings: TINY.maxPositionEmbeddings, rms_norm_eps: 1e-5, rope_theta: 10000 },
    ...{ tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 2 },
  });
  const template =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}" +
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  write("tokenizer_config.json", { bos_token: SPECIAL[0], eos_token: SPECIAL[2], chat_template: template });
  write("tokenizer.json", tokenizer());
  writeFileSync(join(folder, "model.safetensors"), Buffer.concat(writeSafetensors(tensors(), {})));
}

/** Letters in pairs and triples behind a space: as many tokens as tiny has. */
function tokenizer(): object {
  const bytes = Array.from({ length: 256 }, (_, byte) => byteLevelChar(byte)),
    letters = [..."etaoinshrdlucmfwypvbgkqjxz"];
  const merges: [string, string][] = letters.map((a) => ["Ġ", a]);
  for (const a of letters) for (const b of letters) merges.push([a, b]);
  for (const a of letters) {
    for (const b of letters) for (const c of letters) merges.push([`Ġ${a}`, `${b}${c}`]);
  }
  const kept = merges.slice(0, TINY.vocabSize - SPECIAL.length - bytes.length);
  const vocab = [...SPECIAL, ...bytes, ...kept.map((pair) => pair.join(""))];
  return {
    added_tokens: SPECIAL.map((content, id) => ({ id, content, special: true, normalized: false })),
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges: kept },
  };
}

/** Matrices of small random numbers, norms of 1, all in bf16. */
function tensors(): SafetensorsInput[] {
  const { vocabSize, hiddenSize, numHiddenLayers } = TINY, out: SafetensorsInput[] = [];
  let state = 1;
  const add = (name: string, shape: readonly number[]): void => {
    const values = new Uint16Array(shape.reduce((product, n) => product * n, 1));
    for (let i = 0; i < values.length; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      // a sign and one of 2^-5, 2^-6, 2^-7 and 2^-8, with seven bits of fraction; 1 is 0x3f80
      values[i] = shape.length === 1
        ? 0x3f80
        : (state >>> 31) << 15 | (122 - (state >>> 28 & 3)) << 7 | state >>> 20 & 127;
    }
    out.push({ name, dtype: "BF16", shape, data: new Uint8Array(values.buffer) });
  };
  add(HF_NAMES.embedding, [vocabSize, hiddenSize]);
  add(HF_NAMES.finalNorm, [hiddenSize]);
  for (let l = 0; l < numHiddenLayers; l++) {
    for (const name of PROJECTIONS) {
      const { nOut, nIn } = projectionShape(TINY, name);
      add(`${HF_NAMES.projection(l, name)}.weight`, [nOut, nIn]);
    }
    add(HF_NAMES.attentionNorm(l), [hiddenSize]);
    add(HF_NAMES.mlpNorm(l), [hiddenSize]);
  }
  return out;
}
