/** The work of a search, or of an evaluation, in pieces that any worker can do, and what does them. */
import { type EvaluationSetup, packEvaluation, type RowsJob, unpackEvaluation } from "./evaluation.ts";
import { fromBase64, toBase64 } from "../format/base64.ts";
import type { LoadOptions } from "../runtime/model.ts";
import type { Shares } from "./shares.ts";
import type { Tables } from "./tables.ts";

/** Everything that a worker has to know of a search before its first job; plain data. */
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

/** A piece of a search. */
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

/** What workers do. */
export type WorkSetup = Setup | EvaluationSetup;
/** A piece of it. */
export type WorkJob = Job | RowsJob;

/** Does jobs, in any order and as many at a time as it can; a job's result is a list that JSON can hold, of a search's numbers. */
export interface Executor<J extends WorkJob = Job, V = number> {
  /** Who works, for people. */
  readonly workers: string;
  /**
   * Does a job.
   *
   * @throws What the job failed with, or the signal's reason.
   */
  run(job: J, signal?: AbortSignal): Promise<V[]>;
  /** Ends what still runs. */
  close(): Promise<void>;
}

/** Starts an executor once it is known what there is to work on; the signal ends the start with its reason. */
export type ExecutorFactory<S extends WorkSetup = Setup, J extends WorkJob = Job, V = number> = (
  setup: S,
  signal?: AbortSignal,
) => Promise<Executor<J, V>>;

/** A setup as text. */
export function packSetup(setup: WorkSetup): string {
  if ("tasks" in setup) return packEvaluation(setup);
  const { abs, columnNorm, norms } = setup.tables;
  const tables = [abs, columnNorm, norms].map(({ buffer, byteOffset, byteLength }) =>
    toBase64(new Uint8Array(buffer, byteOffset, byteLength))
  );
  return JSON.stringify({ ...setup, tables });
}

/** What {@linkcode packSetup} made. */
export function unpackSetup(text: string): WorkSetup {
  const packed = JSON.parse(text) as Omit<Setup, "tables"> & { readonly tables: readonly string[] };
  if ("tasks" in packed) return unpackEvaluation(packed);
  const [abs, columnNorm, norms] = packed.tables.map((text) => new Float32Array(fromBase64(text).buffer)) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  return { ...packed, tables: { abs, columnNorm, norms } satisfies Tables };
}
