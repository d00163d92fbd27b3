/** A loaded model: the library's main class. */
import { ContextError, FormatError } from "../errors.ts";
import { BytesBlob } from "../format/bytes_blob.ts";
import { Arena } from "../kernels/arena.ts";
import { type Kernels, padTo, PAGE_POSITIONS } from "../kernels/kernels.ts";
import { Pace } from "../kernels/pace.ts";
import type { Team } from "../kernels/team.ts";
import { type ChatMessage, tokenizeChat } from "../model/chat_template.ts";
import type { LlamaConfig } from "../model/config.ts";
import type { LlamaDescription } from "../model/llama.ts";
import { openModel } from "../model/open.ts";
import { detectPlatform } from "../platform/detect.ts";
import type { Platform } from "../platform/platform.ts";
import { readJsonFile } from "../format/json.ts";
import { importThresholdRecipe } from "../recipe/import.ts";
import { checkRecipe, type LoadedRecipe, parseRecipe } from "../recipe/recipe.ts";
import { applyRecipe, recipeHints } from "./apply_recipe.ts";
import { Dial } from "./dial.ts";
import { Forward, type Weights } from "./forward.ts";
import { type GenerateOptions, generateTokens, type Part } from "./generate.ts";
import { KV_TYPES, KvCache, type KvType, PagePool } from "./kv_cache.ts";
import { type Dtype, DTYPES, type Layout, type RunMethod } from "./matrix.ts";
import { type KernelFactory, type KernelSource, openKernels } from "./open_kernels.ts";
import { type DecodeStep, Session, type SessionOptions } from "./session.ts";
import { plannedBytes, SEPARATE, sparseShapes, stagingBytes } from "./plan.ts";
import {
  isKnown,
  openStopwatch,
  readFindings,
  type Shape,
  type Stopwatch,
  tune,
  type Tuning,
  UNTUNED,
  writeFindings,
} from "./tuner.ts";
import type { Slot } from "./together.ts";
import { nextTurn } from "./turn.ts";
import { type LoadProgress, WeightLoader } from "./weights.ts";
import { Workspace } from "./workspace.ts";

/** Where a model comes from: a path, URL or known name; or its bytes, which nothing is fetched for. */
export type ModelSource =
  | string
  | URL
  | Blob
  | Uint8Array
  | ReadableStream<Uint8Array>
  | readonly { readonly name: string; readonly blob: Blob }[];

/** Settings of {@linkcode Model.load}. */
export interface LoadOptions {
  /**
   * A recipe file's path or bytes (also JSON with thresholds by module, docs/formats.md), or one that calibration made. Without one the model is dense, or a pack's
   * own recipe is loaded, which runs where a sparsity is asked for; null: none is.
   */
  readonly recipe?: string | Blob | LoadedRecipe | null;
  /**
   * Threads to use, default 1; `auto`: one for each processor, at most 8. More share the work while that is faster, which is measured as it runs. Where
   * there can be no threads there is one, and `info.threadsReason` says why.
   */
  readonly threads?: number | "auto";
  /**
   * The kernel build; or one of `build/kernels.*.wasm` as bytes, or compiled where the platform forbids compiling (then `*.shared.wasm` for more
   * than one thread); `reference` is scalar and slow.
   */
  readonly kernels?: KernelSource;
  /** How projections are kept in memory; `auto` (default) stays closest to the file. */
  readonly dtype?: Dtype | "auto";
  /** How keys and values are kept: `bf16` takes half the memory of `f32` (default) and rounds them to 8 bits. */
  readonly kv?: KvType;
  /** Most positions of a session; default and limit: the model's own context. */
  readonly contextLength?: number;
  /** Called as bytes come: from the network or from the file. */
  readonly onProgress?: (
    progress: { readonly phase: "download" | "load"; readonly loaded: number; readonly total: number | null },
  ) => void;
  /** Ends loading with the signal's reason. */
  readonly signal?: AbortSignal;
  /**
   * How matrices run sparse, instead of what is fastest here: so that tests see each way.
   *
   * @internal
   */
  readonly tuning?: Tuning;
  /**
   * Makes every projection a matrix of its own that runs dense behind a mask, so that `Rules` can set rule after rule; not with a recipe.
   *
   * @internal
   */
  readonly separate?: boolean;
}

/** What a model runs on. */
export interface EngineInfo {
  /** Name and version, such as `deno 2.9.6`. */
  readonly runtime: string;
  /** The kernel build in use. */
  readonly kernels: "baseline" | "relaxed" | "reference";
  /** Threads in use. */
  readonly threads: number;
  /** Why there are not more, or null. */
  readonly threadsReason: string | null;
  /** How each projection runs where the recipe says so, by its name in the checkpoint: `dense`, `skip` or `stream`. */
  readonly layouts: { readonly [projection: string]: RunMethod };
  /** How its weights are kept: see docs/numerics.md. */
  readonly storage: { readonly [projection: string]: Layout };
}

/** Bytes in use. */
export interface MemoryInfo {
  /** The model's WebAssembly memory, everything below included. */
  readonly wasmBytes: number;
  /** Weights and their scales. */
  readonly weightBytes: number;
  /** Pages of key-value caches, in use or waiting for the next session. */
  readonly kvBytes: number;
  /** Scales and factors of the recipe. */
  readonly recipeBytes: number;
  /** Resident memory of the process; null where it can't be known. */
  readonly rssBytes: number | null;
}

/** After so many milliseconds of work the event loop gets a turn: timers, signals and sockets stay alive. */
const TURN_MS = 8;

const BUSY = "a pass of this model is running: wait for it; its callbacks cannot run a session";

/** What a closed model no longer has. */
interface EngineParts {
  readonly team: Team;
  readonly arena: Arena;
  readonly workspace: Workspace;
  readonly weights: Weights;
  readonly forward: Forward;
  readonly pool: PagePool;
}

/** The parts of a model that a session runs on. */
export class Engine {
  readonly config: LlamaConfig;
  readonly contextLength: number;
  /** Sets the sparsity of the next pass; null without a recipe. */
  readonly dial: Dial | null;
  /** Where the dial of a session stands that was given none; null: at the recipe's own sparsity. */
  readonly restsAt: number | null;
  /** Resolved when the pass that runs in turns has ended; null while none does. */
  #turns: Promise<void> | null = null;
  #busy = false;
  readonly #turnMs: number;
  #lastTurn = 0;
  #parts: EngineParts | null;
  readonly #slots: Workspace[] = [];
  readonly #paces: Pace[] = [];
  #logitsBlock: { at: number; rows: number } | null = null;

  constructor(
    parts: Pick<EngineParts, "team" | "arena" | "workspace" | "weights">,
    contextLength: number,
    recipe: LoadedRecipe | null,
    kv: KvType,
    { restsAt, turnMs }: { readonly restsAt: number | null; readonly turnMs: number },
  ) {
    const { team, arena, workspace, weights } = parts;
    this.config = weights.config;
    this.#parts = {
      ...parts,
      forward: new Forward(team, workspace, weights),
      pool: new PagePool(arena, weights.config, kv),
    };
    this.contextLength = contextLength;
    this.dial = recipe === null ? null : new Dial(weights, recipe);
    this.restsAt = restsAt;
    this.#turnMs = turnMs;
  }

  /** @throws {Error} If the model is closed. */
  get #open(): EngineParts {
    if (this.#parts === null) throw new Error("the model is closed");
    return this.#parts;
  }

  get kernels(): Kernels {
    return this.#open.team.kernels;
  }

  get team(): Team {
    return this.#open.team;
  }

  get arena(): Arena {
    return this.#open.arena;
  }

  get workspace(): Workspace {
    return this.#open.workspace;
  }

  get weights(): Weights {
    return this.#open.weights;
  }

  get forward(): Forward {
    return this.#open.forward;
  }

  get memory(): WebAssembly.Memory {
    return this.#open.team.kernels.memory;
  }

  get kvBytes(): number {
    return this.#open.pool.bytes;
  }

  /** Bytes of the pages that a sequence of so many positions needs. */
  kvBytesOf(positions: number): number {
    return Math.ceil(positions / PAGE_POSITIONS) * this.#open.pool.pageBytes;
  }

  /** Memory for as long as the model lives. */
  allocate(bytes: number): number {
    return this.#open.arena.allocate(bytes);
  }

  newCache(): KvCache {
    return new KvCache(this.#open.pool, this.#open.arena);
  }

  /** Room for the logits of several tokens: made when first asked for. */
  logitsBlock(): { at: number; rows: number } {
    const rows = 16;
    return this.#logitsBlock ??= {
      at: this.#open.arena.allocate(4 * rows * padTo(this.config.vocabSize, 64)),
      rows,
    };
  }

  /** What a pass over a token of each of n sequences needs beside the workspace, made when first asked for; null if memory does not suffice. */
  slots(n: number): Slot[] | null {
    const { team, arena } = this.#open;
    try {
      while (this.#slots.length < n) {
        const at = arena.allocate(Workspace.size(team.kernels, this.config, 1));
        const s = new Workspace(team.kernels, this.config, at, 1);
        s.initialise();
        this.#slots.push(s);
      }
      this.logitsBlock();
    } catch (error) {
      if (error instanceof RangeError) return null;
      throw error;
    }
    return this.#slots.slice(0, n).map((s) => ({ s, kept: 0, dense: 0 }));
  }

  /** Whether a token of each of n sequences is faster in one pass than in turns, as was measured. */
  paceOf(n: number): Pace {
    const pace = this.#paces[n] ?? new Pace();
    this.#paces[n] = pace;
    return pace;
  }

  /**
   * Runs a pass to its end. Sessions share one workspace: while one runs, its callbacks may not run another.
   *
   * @throws {Error} If a pass is running.
   */
  alone<T>(work: () => T): T {
    if (this.#busy) throw new Error(BUSY);
    this.#busy = true;
    try {
      return work();
    } finally {
      this.#busy = false;
    }
  }

  /**
   * Runs a pass in pieces between which the event loop gets a turn, after those that were begun before have ended.
   *
   * @throws The signal's reason, once it is aborted; {Error} if the model was closed meanwhile.
   */
  async inTurns<T>(work: Generator<void, T>, signal?: AbortSignal): Promise<T> {
    while (this.#turns !== null) await this.#turns;
    if (this.#busy) throw new Error(BUSY);
    let ended: () => void;
    this.#turns = new Promise((resolve) => ended = resolve);
    this.#busy = true;
    try {
      for (;;) {
        signal?.throwIfAborted();
        const { done, value } = work.next();
        if (done) return value;
        if (performance.now() - this.#lastTurn > this.#turnMs) {
          await nextTurn();
          this.#lastTurn = performance.now();
          this.checkOpen();
        }
      }
    } finally {
      work.return(undefined as T);
      this.#busy = false;
      this.#turns = null;
      ended!();
    }
  }

  /** Whether it is open and no thread has failed. */
  get canRun(): boolean {
    return this.#parts !== null && this.#parts.team.failure === null;
  }

  /** @throws {Error} If the model is closed. */
  checkOpen(): void {
    void this.#open;
  }

  /** Ends the threads and lets go of the memory; it is free once sessions are let go too. */
  async close(): Promise<void> {
    const team = this.#parts?.team;
    this.#parts = null;
    await team?.close();
  }
}

/**
 * A model in memory, ready to run.
 *
 * @example
 * ```ts ignore
 * await using model = await Model.load("smollm2");
 * for await (const { text } of model.chat([{ role: "user", content: "Hi!" }])) console.log(text);
 * ```
 */
export class Model {
  /**
   * Shape, tokenizer and template, as the file has them.
   *
   * @internal
   */
  readonly description: LlamaDescription;
  /**
   * Kernels, memory, weights.
   *
   * @internal
   */
  readonly engine: Engine;
  /**
   * The runtime's files and environment.
   *
   * @internal
   */
  readonly platform: Platform;
  /** What a user should know about how it was loaded. */
  readonly warnings: readonly string[];
  /** Milliseconds that loading took. */
  readonly loadMs: number;
  readonly #weightBytes: number;
  /** The recipe in use, or null: dense. */
  readonly recipe: LoadedRecipe | null;
  readonly #recipeBytes: number;
  #hash: string | null;

  private constructor(parts: {
    description: LlamaDescription;
    engine: Engine;
    platform: Platform;
    warnings: readonly string[];
    loadMs: number;
    weightBytes: number;
    recipe: LoadedRecipe | null;
    recipeBytes: number;
    hash: string | null;
  }) {
    this.description = parts.description;
    this.engine = parts.engine;
    this.platform = parts.platform;
    this.warnings = parts.warnings;
    this.loadMs = parts.loadMs;
    this.recipe = parts.recipe;
    this.#recipeBytes = parts.recipeBytes;
    this.#hash = parts.hash;
    this.#weightBytes = parts.weightBytes;
  }

  /**
   * Loads a model and, if one is given, a recipe.
   *
   * @throws {FormatError} If a file is broken; `HubError` if it can't be had; `RecipeError` if the recipe is not for this model.
   * @throws {RangeError} If an option is out of range or memory does not suffice.
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<Model> {
    const began = performance.now();
    const { threads = 1, dtype = "auto", kv = "f32", signal, onProgress } = options;
    if (threads !== "auto" && (!Number.isInteger(threads) || threads < 1)) {
      throw new RangeError(`threads: ${threads} found, auto or at least 1 wanted`);
    }
    if (dtype !== "auto" && !DTYPES.includes(dtype)) {
      throw new RangeError(`dtype: ${dtype} found, auto, ${DTYPES.join(", ")} wanted`);
    }
    if (!KV_TYPES.includes(kv)) throw new RangeError(`kv: ${kv} found, ${KV_TYPES.join(" or ")} wanted`);
    const platform = await detectPlatform();
    // compiled in other threads while the model's files are read
    const factoryReady = openKernels(options.kernels ?? "auto", threads, platform);
    factoryReady.catch(() => {});
    const files = await openSource(source, platform, options);
    const description = await openModel(files);
    const { config } = description;
    const limit = options.contextLength ?? config.maxPositionEmbeddings;
    if (!Number.isInteger(limit) || limit < 1 || limit > config.maxPositionEmbeddings) {
      throw new RangeError(
        `contextLength: ${limit} found, 1 to ${config.maxPositionEmbeddings} wanted: the model's context`,
      );
    }
    // a pack's own recipe waits until a sparsity is asked for
    const ownRecipe = options.recipe === undefined && !options.separate ? description.recipe ?? null : null;
    const wanted = options.recipe ?? ownRecipe?.blob ?? null;
    const hash = description.modelHash ??
      (wanted === null ? null : await platform.sha256(description.checkpoint.blobs));
    const recipe = wanted === null
      ? null
      : await openRecipe(wanted, config, platform, hash!, ownRecipe?.sha256);
    const factory = await factoryReady;
    const hints = options.separate ? SEPARATE : recipeHints(recipe), memory = factory.newMemory();
    const shapes = sparseShapes(description, dtype, hints);
    const tuning = options.tuning !== undefined
      ? options.tuning
      : shapes.length === 0 || options.kernels === "reference"
      ? UNTUNED
      : await tuneHere(shapes, config, platform, factory);
    const kernels = await factory.create(memory, tuning.touch);
    const arena = new Arena(memory, kernels.heapBase());
    const plan = { dtype, recipe: hints, build: kernels.build, tuning };
    // loading's scratch becomes the workspace afterwards
    const scratchBytes = Math.max(stagingBytes(description, plan), Workspace.size(kernels, config));
    // one grow for all of it and a first page of the cache: engines collect garbage at each
    arena.reserve(
      scratchBytes + plannedBytes(description, plan) + new PagePool(arena, config, kv).pageBytes + 4096,
    );
    const scratch = arena.allocate(scratchBytes);
    const progress: LoadProgress = (loaded, total) => onProgress?.({ phase: "load", loaded, total });
    const loader = new WeightLoader(kernels, arena, description, scratch, progress, signal);
    const weights = await loader.load(description, plan);
    const workspace = new Workspace(kernels, config, scratch);
    workspace.initialise(loader.scratchUsed);
    const recipeBytes = recipe === null ? 0 : applyRecipe(kernels, weights, recipe, arena, workspace);
    const team = await factory.startTeam(kernels, tuning.touch, arena, workspace);
    const engine = new Engine(
      { team, arena, workspace, weights },
      limit,
      recipe,
      kv,
      { restsAt: ownRecipe === null ? null : 0, turnMs: platform.isUninterrupted ? Infinity : TURN_MS },
    );
    return new Model({
      description,
      engine,
      platform,
      warnings: loader.warnings,
      recipe,
      recipeBytes,
      hash,
      loadMs: performance.now() - began,
      weightBytes: loader.bytes,
    });
  }

  /** Its name, as the file has it. */
  get name(): string {
    return this.description.name;
  }

  /** Its shape. */
  get config(): LlamaConfig {
    return this.description.config;
  }

  /** SHA-256 of the weights' files, which recipes are bound to. Taken when first asked for. */
  async hash(): Promise<string> {
    return this.#hash ??= await this.platform.sha256(this.description.checkpoint.blobs);
  }

  /** Ids of a text; control tokens written in it are plain text. BOS is put first where the model wants one. */
  tokenize(text: string, options: { special?: boolean } = {}): number[] {
    return this.description.tokenizer.encode(text, { bos: true, ...options });
  }

  /** The text of ids, control tokens included. */
  detokenize(ids: readonly number[]): string {
    return this.description.tokenizer.decode(ids);
  }

  /** A new, empty sequence. @throws {RangeError} If the recipe can't do the sparsity asked for. */
  session(options: SessionOptions = {}): Session {
    this.engine.checkOpen();
    return new Session(this.engine, options);
  }

  /**
   * Runs a token of each of several sessions, in one pass where that is faster, which is measured as it runs. Each gets the logits that
   * {@linkcode Session.decodeAsync} would give, to the bit, or the error that it would throw: what happens to one is nothing to the others.
   *
   * @throws {RangeError} If a session is there twice, or of another model.
   */
  decodeTogether(steps: readonly DecodeStep[]): Promise<(Float32Array | Error)[]> {
    return Session.decodeTogether(this.engine, steps);
  }

  /** Continues a text, or the tokens of one. Yields text as it comes; the last part has the `result`. */
  generate(prompt: string | readonly number[], options: GenerateOptions = {}): AsyncGenerator<Part> {
    return generateTokens(this, typeof prompt === "string" ? this.tokenize(prompt) : prompt, options);
  }

  /** Answers the last message of a chat, through the model's own template. Yields text as it comes; the last part has the `result`. */
  chat(messages: readonly ChatMessage[], options: GenerateOptions = {}): AsyncGenerator<Part> {
    const { tokenizer, chatTemplate } = this.description;
    return generateTokens(
      this,
      tokenizeChat(tokenizer, chatTemplate, messages, { addGenerationPrompt: true }),
      options,
    );
  }

  /** The sparsity of a session that was given none: the recipe's own; 0 without a recipe, and where it came with the pack. */
  get sparsity(): number {
    return this.engine.restsAt ?? this.recipe?.recipe.sparsity ?? 0;
  }

  /** What it runs on. */
  get info(): EngineInfo {
    const layouts: { [projection: string]: RunMethod } = {}, storage: { [projection: string]: Layout } = {};
    for (const { matrix, method, parts } of this.engine.weights.layers[0]!.sites.flat()) {
      for (const { name } of parts) {
        const key = name.replace(/Proj$/, "_proj");
        layouts[key] = method;
        storage[key] = matrix.layout;
      }
    }
    return {
      runtime: this.platform.runtime,
      kernels: this.engine.kernels.build,
      threads: this.engine.team.threads,
      threadsReason: this.engine.team.reason,
      layouts,
      storage,
    };
  }

  /** Bytes in use now. */
  get memory(): MemoryInfo {
    return {
      wasmBytes: this.engine.memory.buffer.byteLength,
      weightBytes: this.#weightBytes,
      kvBytes: this.engine.kvBytes,
      recipeBytes: this.#recipeBytes,
      rssBytes: this.platform.rssBytes(),
    };
  }

  /** Ends the model and lets go of its memory. What still runs fails at its next token. */
  close(): Promise<void> {
    return this.engine.close();
  }

  /** `await using model = await Model.load(…)` closes it. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Refuses a prompt that leaves no room for `maxTokens` more. @throws {ContextError} */
  checkContext(promptTokens: number, maxTokens: number): void {
    const wanted = promptTokens + maxTokens, limit = this.engine.contextLength;
    if (wanted > limit) {
      throw new ContextError(wanted, limit, `a prompt of ${promptTokens} tokens and ${maxTokens} new ones`);
    }
  }
}

/** A recipe, from wherever it is, checked against the model. */
async function openRecipe(
  recipe: string | Blob | LoadedRecipe,
  config: LlamaConfig,
  platform: Platform,
  modelHash: string,
  sha256?: string | null,
): Promise<LoadedRecipe> {
  let loaded: LoadedRecipe;
  if (typeof recipe === "string" || recipe instanceof Blob) {
    const name = typeof recipe === "string" ? recipe : "recipe";
    const blob = typeof recipe === "string" ? await openFile(recipe, platform) : recipe;
    const parsed = await isJson(blob)
      ? importThresholdRecipe((await readJsonFile(blob, name)).value, config, name.replace(/^.*[/\\]/, ""))
      : await parseRecipe(blob, name);
    loaded = { ...parsed, sha256: sha256 ?? await platform.sha256([blob]) };
  } else loaded = recipe;
  checkRecipe(loaded, config, modelHash);
  return loaded;
}

/** Whether a recipe is text. A safetensors file begins with its header's length in eight bytes, the last of which are 0. */
async function isJson(blob: Blob): Promise<boolean> {
  const bytes = new Uint8Array(await blob.slice(0, 8).arrayBuffer());
  return bytes.length > 0 && /^\s*\{/.test(String.fromCharCode(...bytes)) && !bytes.includes(0);
}

/** The fastest way to run each shape, as earlier loads found it or timed now. */
async function tuneHere(
  shapes: readonly Shape[],
  config: LlamaConfig,
  platform: Platform,
  factory: KernelFactory,
): Promise<Tuning> {
  const began = performance.now(), { build } = await factory.create(factory.newMemory(), "atomic");
  const found = await readFindings(platform, build), before = found.size;
  const watch: Stopwatch = shapes.every((shape) => isKnown(found, shape))
    ? () => Infinity
    : await openStopwatch(config, factory);
  const tuning = tune(shapes, build, found, watch, () => performance.now(), began);
  if (found.size > before) await writeFindings(platform, build, found);
  return tuning;
}

async function openFile(path: string, platform: Platform): Promise<Blob> {
  const found = platform.hasFiles ? await platform.stat(path) : null;
  if (found?.kind !== "file") {
    throw new FormatError(
      path || "a recipe",
      0,
      `${found === null ? "there is no such file" : "it is a folder"}: check the path`,
    );
  }
  return await platform.openBlob(path);
}

async function openSource(
  source: ModelSource,
  platform: Platform,
  options: LoadOptions,
): Promise<readonly { name: string; blob: Blob }[]> {
  if (typeof source === "string" || source instanceof URL) {
    const { locateModel } = await import("../hub/locate.ts");
    const located = await locateModel(String(source), platform, {
      signal: options.signal,
      onProgress: (_file, loaded, total) => options.onProgress?.({ phase: "download", loaded, total }),
    });
    return located.files;
  }
  if (source instanceof Blob) return [{ name: source instanceof File ? source.name : "model", blob: source }];
  if (source instanceof Uint8Array) {
    return [{ name: "model", blob: new BytesBlob(source) }];
  }
  if (source instanceof ReadableStream) {
    return [{
      name: "model",
      blob: await new Response(source as ReadableStream<Uint8Array<ArrayBuffer>>).blob(),
    }];
  }
  return source;
}
