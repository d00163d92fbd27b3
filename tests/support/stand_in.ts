/**
 * A model for the tests of what embeds one, as long as `models/tiny.rsparse` is not in the repository: of tiny's shape, with random weights. It lies where tiny
 * would, since that is what is tested: that code finds it there, with few permissions, in bundles, in programs.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { cliCommand, thisRuntime } from "./runtimes.ts";
import { rootPath } from "./shared.ts";

const PACK = rootPath("models/tiny.rsparse");
const SHAPE = { vocabulary: 6144, hidden: 384, layers: 8, heads: 6, kvHeads: 2, ffn: 1024, context: 1024 };
const SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/** Makes it where there is no tiny; returns what takes it away again. */
export function standInForTiny(): () => void {
  if (existsSync(PACK)) return () => {};
  const folder = mkdtempSync(join(tmpdir(), "rsparse-stand-in-")), model = join(folder, "stand-in");
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
  const { vocabulary, hidden, layers, heads, kvHeads, ffn, context } = SHAPE, kv = hidden / heads * kvHeads;
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  write("config.json", {
    ...{ model_type: "llama", vocab_size: vocabulary, hidden_size: hidden, intermediate_size: ffn },
    ...{ num_hidden_layers: layers, num_attention_heads: heads, num_key_value_heads: kvHeads },
    ...{ max_position_embeddings: context, rms_norm_eps: 1e-5, rope_theta: 10000 },
    ...{ tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 2 },
  });
  const template =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}" +
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  write("tokenizer_config.json", { bos_token: SPECIAL[0], eos_token: SPECIAL[2], chat_template: template });
  write("tokenizer.json", tokenizer());
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [vocabulary, hidden]], [
    "model.norm.weight",
    [hidden],
  ]];
  for (let l = 0; l < layers; l++) {
    const rows = {
      ...{ "self_attn.q_proj": [hidden, hidden], "self_attn.k_proj": [kv, hidden] },
      ...{ "self_attn.v_proj": [kv, hidden], "self_attn.o_proj": [hidden, hidden] },
      ...{ "mlp.gate_proj": [ffn, hidden], "mlp.up_proj": [ffn, hidden], "mlp.down_proj": [hidden, ffn] },
      ...{ input_layernorm: [hidden], post_attention_layernorm: [hidden] },
    };
    for (const [name, shape] of Object.entries(rows)) {
      shapes.push([`model.layers.${l}.${name}.weight`, shape]);
    }
  }
  writeFileSync(join(folder, "model.safetensors"), safetensors(shapes));
}

/** Letters in pairs and triples behind a space: as many tokens as tiny has. */
function tokenizer(): object {
  const bytes = Array.from({ length: 256 }, (_, byte) => byteCharacter(byte)),
    letters = [..."etaoinshrdlucmfwypvbgkqjxz"];
  const merges: [string, string][] = letters.map((a) => ["Ġ", a]);
  for (const a of letters) for (const b of letters) merges.push([a, b]);
  for (const a of letters) {
    for (const b of letters) for (const c of letters) merges.push([`Ġ${a}`, `${b}${c}`]);
  }
  const kept = merges.slice(0, SHAPE.vocabulary - SPECIAL.length - bytes.length);
  const vocab = [...SPECIAL, ...bytes, ...kept.map((pair) => pair.join(""))];
  return {
    added_tokens: SPECIAL.map((content, id) => ({ id, content, special: true, normalized: false })),
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(vocab.map((token, id) => [token, id])), merges: kept },
  };
}

/** GPT-2's signs for bytes: those that can be seen stand for themselves, the others follow U+0100. */
function byteCharacter(byte: number): string {
  const isSeen = (code: number): boolean =>
    (code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255);
  if (isSeen(byte)) return String.fromCharCode(byte);
  let before = 0;
  for (let code = 0; code < byte; code++) if (!isSeen(code)) before++;
  return String.fromCharCode(256 + before);
}

/** Matrices of small random numbers, norms of 1, all in bf16. */
function safetensors(shapes: readonly (readonly [string, readonly number[]])[]): Uint8Array {
  const header: { [name: string]: unknown } = {};
  let at = 0, state = 1;
  for (const [name, shape] of shapes) {
    const end = at + 2 * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype: "BF16", shape, data_offsets: [at, end] };
    at = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header)), out = new Uint8Array(8 + text.length + at);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  const values = new Uint16Array(at / 2);
  let i = 0;
  for (const [, shape] of shapes) {
    const count = shape.reduce((product, n) => product * n, 1);
    for (let n = 0; n < count; n++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      // a sign and one of 2^-5, 2^-6, 2^-7 and 2^-8, with seven bits of fraction; 1 is 0x3f80
      values[i++] = shape.length === 1
        ? 0x3f80
        : (state >>> 31) << 15 | (122 - (state >>> 28 & 3)) << 7 | state >>> 20 & 127;
    }
  }
  out.set(new Uint8Array(values.buffer), 8 + text.length);
  return out;
}
