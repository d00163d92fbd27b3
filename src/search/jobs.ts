/** The work of a search in pieces that any worker can do, and what does them. */
import type { LoadOptions } from "../runtime/model.ts";
import type { Shares } from "./shares.ts";
import type { Tables } from "./tables.ts";

/** Everything that a worker has to know before its first job; plain data. */
export interface Setup {
  /** What `-m` would say. */
  readonly model: string;
  /** SHA-256 of the weights' files. */
  readonly modelHash: string;
  /** The build that all workers compute with, so that all get the same bits. */
  readonly kernels: "baseline" | "relaxed" | "reference";
  /** How projections are kept. */
  readonly dtype: NonNullable<LoadOptions["dtype"]>;
  /** Token ids. */
  readonly samples: readonly (readonly number[])[];
  /** What thresholds are read from. */
  readonly tables: Tables;
  /** The first so many positions are dense. */
  readonly keepDense: number;
  /** The least sparsity of any point, which bounds ranks. */
  readonly leastSparsity: number;
  /** Projections whose decompositions a worker keeps as floats. */
  readonly keptFactors: number;
}

/** A piece of work. */
export type Job =
  /** The perplexity of each of some samples at a point. Blocks before `split` are as in most other points now: their work may be kept. */
  | {
    readonly kind: "perplexity";
    readonly shares: Shares;
    readonly split: number;
    readonly samples: readonly number[];
  }
  /** TEAL's path of a block: the kind of projection that takes each step. */
  | { readonly kind: "greedy"; readonly layer: number; readonly step: number; readonly target: number }
  /** For each projection of a block, which of some rho leaves the least error of its own output. */
  | {
    readonly kind: "local";
    readonly layer: number;
    readonly sparsity: number;
    readonly rhos: readonly number[];
  };

/** Does jobs, in any order and as many at a time as it can. */
export interface Executor {
  /** Who works, for people. */
  readonly workers: string;
  /**
   * Does a job.
   *
   * @throws What the job failed with, or the signal's reason.
   */
  run(job: Job, signal?: AbortSignal): Promise<number[]>;
  /** Ends what still runs. */
  close(): Promise<void>;
}

/** Starts an executor once it is known what there is to work on; the signal ends the start with its reason. */
export type ExecutorFactory = (setup: Setup, signal?: AbortSignal) => Promise<Executor>;

/** A setup as text. */
export function packSetup(setup: Setup): string {
  const { abs, columnNorm, norms } = setup.tables;
  return JSON.stringify({ ...setup, tables: [abs, columnNorm, norms].map(toBase64) });
}

/** What {@linkcode packSetup} made. */
export function unpackSetup(text: string): Setup {
  const packed = JSON.parse(text) as Omit<Setup, "tables"> & { readonly tables: readonly string[] };
  const [abs, columnNorm, norms] = packed.tables.map(fromBase64) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  return { ...packed, tables: { abs, columnNorm, norms } satisfies Tables };
}

function toBase64(values: Float32Array): string {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

function fromBase64(text: string): Float32Array {
  return new Float32Array(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)).buffer);
}
