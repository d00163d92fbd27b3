/**
 * How text is cut into words before merging, as configurations of `@huggingface/tokenizers`: from the name in a GGUF
 * file (patterns from llama.cpp, `llama-vocab.cpp`), or from a `tokenizer.json`.
 */
import { type BpeSpec, UNICODE_FORMS, type UnicodeForm } from "./bpe.ts";

const GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}" +
  "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN2 = LLAMA3.replace("\\p{N}{1,3}", "\\p{N}");
const DEFAULT = ["[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"];

/** What the name of a GGUF file's pre-tokenizer stands for. */
export interface PreTokenizer {
  readonly normalizers: readonly UnicodeForm[];
  readonly preTokenizer: BpeSpec["preTokenizer"];
  /** A word that is a token stays one, whatever the merges say. */
  readonly ignoreMerges: boolean;
  /** Whether BOS is added where the file doesn't say. */
  readonly addBos: boolean;
}

const FAMILIES: readonly (readonly [names: string, patterns: readonly string[]])[] = [
  ["default", DEFAULT],
  ["gpt-2 gpt2 phi-2 olmo jina-es jina-de mpt", [GPT2]],
  ["smollm starcoder refact command-r codeshell exaone minerva-7b", ["\\p{N}", GPT2]],
  ["llama-bpe llama3 llama-v3 falcon3 pixtral", [LLAMA3]],
  ["smaug-bpe dbrx", [LLAMA3]],
  ["qwen2 stablelm2 deepseek-r1-qwen", [QWEN2]],
];

/** The pre-tokenizer of that name (`tokenizer.ggml.pre`), or null if it is not known. */
export function ggufPreTokenizer(name: string): PreTokenizer | null {
  const family = FAMILIES.find(([names]) => names.split(" ").includes(name));
  if (!family) return null;
  const [names, patterns] = family;
  const isLlama3 = names.startsWith("llama-bpe");
  return {
    // Qwen2's own tokenizer.json has NFC; GGUF has no key for it.
    normalizers: names.startsWith("qwen2") ? ["NFC"] : [],
    preTokenizer: { pretokenizers: [...patterns.map(split), BYTES] },
    ignoreMerges: isLlama3,
    addBos: isLlama3,
  };
}

const BYTES = { type: "ByteLevel", add_prefix_space: false, use_regex: false } as const;

function split(pattern: string): object {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

type Fail = (path: string, detail: string) => Error;

/**
 * A `tokenizer.json`'s `pre_tokenizer`, in words that the library does right. Its `Digits` knows decimal digits only
 * ("½" is a number too), its `ByteLevel` pattern has JavaScript's `\s` instead of Unicode's, and of `Split` it does two behaviours.
 *
 * @throws What `fail` makes, if a part is not supported, or bytes are never made of the text.
 */
export function jsonPreTokenizer(value: unknown, fail: Fail): BpeSpec["preTokenizer"] {
  const steps: object[] = [];
  addSteps(value, "pre_tokenizer", steps, fail, 0);
  if (!steps.some((step) => "type" in step && step.type === "ByteLevel")) {
    throw fail("pre_tokenizer", "there is no ByteLevel: only byte-level BPE is supported");
  }
  return { pretokenizers: steps };
}

function addSteps(value: unknown, path: string, steps: object[], fail: Fail, depth: number): void {
  const node = (typeof value === "object" && value !== null ? value : {}) as {
    readonly [key: string]: unknown;
  };
  const type = node["type"];
  if (type === "Sequence" && Array.isArray(node["pretokenizers"]) && depth < 4) {
    node["pretokenizers"].forEach((step, i) =>
      addSteps(step, `${path}.pretokenizers.${i}`, steps, fail, depth + 1)
    );
  } else if (type === "Digits") {
    steps.push(split(node["individual_digits"] === true ? "\\p{N}" : "\\p{N}+"));
  } else if (type === "ByteLevel") {
    if (node["add_prefix_space"] === true) throw fail(path, "add_prefix_space is not supported");
    if (node["use_regex"] !== false) steps.push(split(GPT2));
    steps.push(BYTES);
  } else if (type === "Split") {
    steps.push(splitStep(node, path, fail));
  } else {
    throw fail(path, `${show(type)} found, supported are Sequence, Split, Digits and ByteLevel`);
  }
}

function splitStep(node: { readonly [key: string]: unknown }, path: string, fail: Fail): object {
  const pattern = (node["pattern"] ?? {}) as { readonly Regex?: unknown; readonly String?: unknown };
  const source = typeof pattern.Regex === "string"
    ? pattern.Regex
    : typeof pattern.String === "string"
    ? pattern.String.replace(/[\\^$.*+?()[\]{}|\/-]/g, "\\$&")
    : null;
  if (source === null) throw fail(path, "a pattern with a Regex or a String is wanted");
  const { behavior, invert } = node;
  // What is between the matches is isolated as well, so inverting makes no difference.
  if (behavior === "Isolated") return split(source);
  if (behavior === "Removed" && invert === true) {
    return { type: "Split", pattern: { Regex: source }, behavior, invert };
  }
  throw fail(path, `behavior ${show(behavior)}, inverted ${show(invert)}: not supported`);
}

/**
 * A `tokenizer.json`'s `normalizer`, for which byte-level tokenizers have a Unicode form or none.
 *
 * @throws What `fail` makes, if it is something else.
 */
export function jsonNormalizer(value: unknown, fail: Fail): readonly UnicodeForm[] {
  if (value === null || value === undefined) return [];
  const { type, normalizers } = value as { readonly type?: unknown; readonly normalizers?: unknown };
  const steps: readonly unknown[] = type === "Sequence" && Array.isArray(normalizers) ? normalizers : [value];
  return steps.map((step) => {
    const form = (step as { readonly type?: unknown } | null)?.type;
    const known = UNICODE_FORMS.find((name) => name === form);
    if (known === undefined) {
      throw fail("normalizer", `${show(form)} found, supported are ${UNICODE_FORMS.join(", ")}`);
    }
    return known;
  });
}

/** A value from a file, short enough for an error message, whatever it is. */
export function show(value: unknown): string {
  if (Array.isArray(value)) {
    return `[${value.slice(0, 3).map((item) => Array.isArray(item) ? "a list" : show(item)).join(", ")}${
      value.length > 3 ? ", …" : ""
    }]`;
  }
  // String() would call an object's own toString, which a file can set to anything.
  const text = typeof value === "string"
    ? JSON.stringify(value)
    : typeof value === "object" && value
    ? "an object"
    : String(value);
  return text.length > 80 ? text.slice(0, 79) + "…" : text;
}
