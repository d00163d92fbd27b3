/** What the page and its worker say to each other: calls with events and one result, and words without an answer. */
import type { Row } from "../../../src/cli/bench/rows.ts";
import type { PageResults } from "./bench.ts";

/** What this browser can do. */
export interface Support {
  /** Whether memory can be shared between threads. */
  readonly isolated: boolean;
  /** Why there is one thread only; null: there can be more. */
  readonly threadsReason: string | null;
  /** Why nothing can be kept in this browser; null: it can. */
  readonly storageReason: string | null;
  /** The model that comes with the page; null where it was built without one. */
  readonly own: OwnModel | null;
}

/** A model that lies beside the page. */
export interface OwnModel {
  readonly name: string;
  /** Relative to the page. */
  readonly file: string;
  readonly bytes: number;
}

/** A model that this browser keeps. */
export interface Kept {
  readonly id: string;
  readonly name: string;
  /** The address that it came from, or null: from this device. */
  readonly url: string | null;
  /** Bytes that are here. */
  readonly bytes: number;
  /** Bytes that there will be; null where the server does not say. The same as `bytes` when all are here. */
  readonly total: number | null;
  /** False: a download that did not come to its end. */
  readonly complete: boolean;
}

/** What is kept, and how much room there is, as far as the browser says. */
export interface Shelf {
  readonly models: readonly Kept[];
  readonly usedBytes: number | null;
  readonly quotaBytes: number | null;
}

/** Where a model is opened from. */
export type Origin =
  | { readonly from: "page" }
  | { readonly from: "kept"; readonly id: string }
  | { readonly from: "files"; readonly files: readonly File[] };

/** The recipe in use. */
export interface RecipeInfo {
  readonly method: string;
  readonly sparsity: number;
  /** The least and the largest that the dial can be set to, besides 0. */
  readonly range: readonly [number, number];
}

/** The model in use. */
export interface ModelInfo {
  readonly name: string;
  readonly parameters: number;
  readonly quantization: string;
  readonly layers: number;
  readonly contextLength: number;
  /** False: it continues texts, since it has no chat template. */
  readonly chats: boolean;
  readonly recipe: RecipeInfo | null;
  /** Whether its files are kept in this browser already, or come with the page. */
  readonly kept: boolean;
  readonly kernels: string;
  readonly threads: number;
  readonly threadsReason: string | null;
  readonly storage: string;
  readonly memoryBytes: number;
  readonly loadMs: number;
  readonly warnings: readonly string[];
}

/** Bytes of a file, or steps of a task; `total` is null where it is not known. */
export interface Progress {
  readonly what: string;
  readonly done: number;
  readonly total: number | null;
}

/** How tokens are drawn, and how many. */
export interface AnswerSettings {
  readonly maxTokens: number;
  readonly temperature: number;
  /** Null: another one each time. */
  readonly seed: number | null;
}

/** One message. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** A token as it came. */
export interface TokenEvent {
  /** Text that became whole with it; may be empty. */
  readonly text: string;
  /** How many there are now. */
  readonly count: number;
  /** Since the token before; of the first one 0. */
  readonly ms: number;
  /** What the dial stood at in the pass that gave it; of the first one, which the prompt gives, 0. */
  readonly sparsity: number;
  /** Share of the multiply-adds that this pass skipped. */
  readonly skipped: number;
}

/** Where the dial was turned in an answer: from token `from` on, counted from 1, it stood at `sparsity`. */
export interface DialChange {
  readonly from: number;
  readonly sparsity: number;
}

/** What an answer was. */
export interface Answer {
  readonly text: string;
  readonly tokens: number;
  readonly finishReason: "stop" | "length" | "cancelled";
  readonly promptTokens: number;
  /** Prompt tokens that the conversation held already. */
  readonly reusedTokens: number;
  readonly firstTokenMs: number;
  /** Of the tokens after the first; null where there are none. */
  readonly tokensPerSecond: number | null;
  /** Share of the multiply-adds that were skipped after the prompt; null where there was no such token. */
  readonly measuredSparsity: number | null;
  readonly dial: readonly DialChange[];
  readonly seed: number;
}

/** Which channels were active in one token, layer by layer. */
export interface Activity {
  /** u8[layers, SITES, BINS]: share of each bin's channels, 255 for all. */
  readonly cells: Uint8Array;
  /** f32[layers, SITES]: share of each site's channels. */
  readonly shares: Float32Array;
  readonly layers: number;
}

/** Groups of projections with one input each. */
export const SITES = 4;
/** Cells a site in the picture. */
export const BINS = 24;

/** One side of a comparison. */
export type Side = "dense" | "sparse";

/** A token of one side. */
export interface SideToken {
  readonly side: Side;
  readonly text: string;
  readonly count: number;
  /** That its pass took; of the first one, which the prompt gives, 0. */
  readonly ms: number;
}

/** What one side did. */
export interface SideResult {
  readonly tokens: number;
  readonly finishReason: "stop" | "length" | "cancelled";
  readonly prefillMs: number;
  readonly measuredSparsity: number | null;
}

/** What a comparison found. */
export interface Comparison {
  readonly dense: SideResult;
  readonly sparse: SideResult;
  /** Tokens of each side that the speeds are taken over: those while both ran. */
  readonly timed: number;
  readonly denseTokensPerSecond: number | null;
  readonly sparseTokensPerSecond: number | null;
  /** Tokens from the start that are the same. */
  readonly same: number;
  /** False: memory did not suffice for a second copy, so dense ran on weights that were packed for skipping. */
  readonly ownCopy: boolean;
}

/** What the benchmark is to measure. */
export interface BenchChoice {
  readonly tokens: boolean;
  readonly kernels: boolean;
}

/** What one run of a benchmark found. */
export interface BenchRows {
  readonly threads: number;
  readonly rows: readonly Row[];
}

/** Calls: what they are given, what comes while they run, and what they end with. */
export interface Calls {
  support: { argument: null; event: never; result: Support };
  shelf: { argument: null; event: never; result: Shelf };
  download: { argument: { readonly url: string }; event: Progress; result: Kept };
  keep: { argument: null; event: Progress; result: Kept };
  remove: { argument: { readonly id: string }; event: never; result: null };
  open: { argument: Origin; event: Progress; result: ModelInfo };
  calibrate: { argument: null; event: Progress; result: ModelInfo };
  answer: {
    argument: { readonly messages: readonly ChatMessage[]; readonly settings: AnswerSettings };
    event: TokenEvent | Activity;
    result: Answer;
  };
  compare: {
    argument: { readonly prompt: string; readonly maxTokens: number };
    event: SideToken | Progress;
    result: Comparison;
  };
  bench: { argument: BenchChoice; event: Progress | BenchRows; result: PageResults };
}

/** Name of a call. */
export type CallName = keyof Calls;

/** What the page says. `dial` and `stop` have no answer: they act on what runs. */
export type ToWorker =
  | { readonly kind: "call"; readonly id: number; readonly name: CallName; readonly argument: unknown }
  | { readonly kind: "dial"; readonly sparsity: number }
  | { readonly kind: "stop"; readonly id: number };

/** An error, as it crosses to the page. */
export interface Failure {
  readonly name: string;
  readonly message: string;
}

/** What the worker says of a call. */
export type FromWorker =
  | { readonly kind: "event"; readonly id: number; readonly value: unknown }
  | { readonly kind: "result"; readonly id: number; readonly value: unknown }
  | { readonly kind: "failure"; readonly id: number; readonly value: Failure };
