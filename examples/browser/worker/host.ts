/** The model in use and what is done with it: every call that the page makes. */
import { type LoadedRecipe, Model } from "../../../src/mod.ts";
import { noSharedMemoryReason } from "../../../src/kernels/probe.ts";
import type { NamedBlob } from "../../../src/model/named_blob.ts";
import { openModel } from "../../../src/model/open.ts";
import { dialRange } from "../../../src/recipe/dial.ts";
import { serialiseRecipe, tableOf } from "../../../src/recipe/recipe.ts";
import { ActivityProbe } from "./activity.ts";
import { Conversation, promptOf } from "./conversation.ts";
import { download } from "./download.ts";
import { duel } from "./duel.ts";
import { sortFiles } from "./files.ts";
import type { CallName, Calls, Kept, ModelInfo, Origin, OwnModel, Progress, Support } from "./protocol.ts";
import { keepFiles, keepRecipe, listShelf, noShelfReason, openKept, removeKept } from "./shelf.ts";

/** The picture changes at most so often: a look takes 0.9 ms for SmolLM2 (2.5 GHz Xeon), so five a second cost half a per cent. */
const LOOK_MS = 200;
/** Tokens that a calibration in the page reads, at four settings of the dial. */
const CALIBRATION_TOKENS = 512;
const CALIBRATION_SPARSITY = 0.4;
/** What the page's build writes beside it: {@linkcode OwnModel}, or null. */
const OWN = "model.json";

/** A model in memory, and what it was made from. */
interface Loaded {
  readonly model: Model;
  readonly files: readonly NamedBlob[];
  /** Where it is kept in this browser; `page`: it comes with the page; null: it is not kept. */
  readonly kept: string | "page" | null;
  /** The recipe's file, where it was given apart. */
  readonly recipe: Blob | null;
  readonly conversation: Conversation;
}

type Tell<N extends CallName> = (event: Calls[N]["event"]) => void;
type TellProgress = (progress: Progress) => void;

/** Calls that use the model: one at a time. */
const EXCLUSIVE: readonly CallName[] = [
  "open",
  "calibrate",
  "answer",
  "compare",
  "bench",
  "keep",
];

/** Everything behind the page. */
export class Host {
  #loaded: Loaded | null = null;
  /** A second copy, for the dense side of comparisons. */
  #dense: Model | null = null;
  #dial = 0;
  #busy: CallName | null = null;

  /** Turns the dial: what runs takes it from its next token on. */
  turn(sparsity: number): void {
    this.#dial = sparsity;
  }

  /** Does what the page asks for. @throws {Error} What a person should be told. */
  async call<N extends CallName>(
    name: N,
    argument: Calls[N]["argument"],
    tell: Tell<N>,
    signal: AbortSignal,
  ): Promise<Calls[N]["result"]> {
    const calls: { readonly [M in CallName]: Call<M> } = {
      support: () => this.#support(),
      shelf: () => listShelf(),
      download: ({ url }, tell) => download(url, tell, signal),
      keep: (_, tell) => this.#keep(tell, signal),
      remove: async ({ id }) => (await removeKept(id), null),
      open: (origin, tell) => this.#open(origin, tell, signal),
      calibrate: (_, tell) => this.#calibrate(tell, signal),
      answer: (argument, tell) => this.#answer(argument, tell, signal),
      compare: (argument, tell) => this.#compare(argument, tell, signal),
      bench: (choice, tell) => this.#bench(choice, tell, signal),
    };
    if (!EXCLUSIVE.includes(name)) return await calls[name](argument, tell);
    if (this.#busy !== null) throw new Error("The model is at work: stop that first");
    this.#busy = name;
    try {
      return await calls[name](argument, tell);
    } finally {
      this.#busy = null;
    }
  }

  async #support(): Promise<Support> {
    const threadsReason = noSharedMemoryReason() ??
      (navigator.hardwareConcurrency > 1 ? null : "there is one processor");
    return {
      isolated: globalThis.crossOriginIsolated,
      threadsReason,
      storageReason: await noShelfReason(),
      own: await ownModel(),
    };
  }

  get #model(): Loaded {
    if (this.#loaded === null) throw new Error("There is no model yet: open one first");
    return this.#loaded;
  }

  async #open(origin: Origin, tell: TellProgress, signal: AbortSignal): Promise<ModelInfo> {
    const found = await this.#find(origin, tell, signal), before = this.#loaded;
    // a file that is broken is refused while the model before it is still there
    await openModel(found.files);
    try {
      const info = await this.#load(found, tell, signal);
      if (found.isNewRecipe) await this.#keepRecipe();
      return info;
    } catch (error) {
      // such as a recipe for another model: go on with what there was
      if (before !== null) await this.#load(before, tell).catch(() => {});
      throw error;
    }
  }

  async #find(
    origin: Origin,
    tell: TellProgress,
    signal: AbortSignal,
  ): Promise<Pick<Loaded, "files" | "kept" | "recipe"> & { isNewRecipe?: boolean }> {
    if (origin.from === "kept") return { ...await openKept(origin.id), kept: origin.id };
    if (origin.from === "files") {
      const { model, recipe } = await sortFiles(origin.files);
      if (model.length > 0) return { files: model, recipe, kept: null };
      const { files, kept } = this.#model;
      return { files, kept, recipe, isNewRecipe: true };
    }
    const own = await ownModel();
    if (own === null) throw new Error("This page was built without a model of its own");
    const response = await fetch(own.file, { signal });
    if (!response.ok) {
      throw new Error(
        `The page's own model is not there, the server answered ${response.status}: choose a file, or give an address`,
      );
    }
    return {
      files: [{ name: own.file, blob: await readWhole(response, own, tell) }],
      recipe: null,
      kept: "page",
    };
  }

  async #load(
    { files, kept, recipe }: Pick<Loaded, "files" | "kept" | "recipe">,
    tell: TellProgress,
    signal?: AbortSignal,
    made?: LoadedRecipe,
  ): Promise<ModelInfo> {
    await this.#unload();
    const model = await Model.load(files, {
      threads: "auto",
      recipe: made ?? recipe ?? undefined,
      signal,
      onProgress: ({ loaded, total }) => tell({ what: "loading", done: loaded, total }),
    });
    this.#loaded = { model, files, kept, recipe, conversation: new Conversation(model) };
    this.#dial = model.recipe?.recipe.sparsity ?? 0;
    return infoOf(this.#loaded);
  }

  async #unload(): Promise<void> {
    const loaded = this.#loaded;
    this.#loaded = null;
    loaded?.conversation.close();
    await loaded?.model.close();
    await this.#dense?.close();
    this.#dense = null;
  }

  async #calibrate(tell: TellProgress, signal: AbortSignal): Promise<ModelInfo> {
    const { model, files, kept } = this.#model;
    if (model.recipe !== null) throw new Error("This model has a recipe already");
    const { calibrateModel, defaultCalibrationText } = await import("../../../src/calibrate/mod.ts");
    const made = await calibrateModel(model, {
      ...await defaultCalibrationText(),
      tokens: CALIBRATION_TOKENS,
      sparsity: CALIBRATION_SPARSITY,
      signal,
      onProgress: ({ done, total }) => tell({ what: "calibrating", done, total }),
    });
    // by-site has thresholds only
    const recipe = new Blob(serialiseRecipe(made.recipe, new Map(), tableOf(made), made) as BlobPart[]);
    const info = await this.#load({ files, kept, recipe }, tell, signal, made);
    await this.#keepRecipe();
    return info;
  }

  /** Beside a model that is kept in this browser, so that it is there next time. */
  async #keepRecipe(): Promise<void> {
    const { kept, recipe } = this.#model;
    if (kept !== null && kept !== "page" && recipe !== null) await keepRecipe(kept, recipe);
  }

  async #answer(
    { messages, settings }: Calls["answer"]["argument"],
    tell: Tell<"answer">,
    signal: AbortSignal,
  ): Promise<Calls["answer"]["result"]> {
    const { model, conversation } = this.#model;
    const tokens = conversation.answer(promptOf(model, messages), {
      ...settings,
      dial: () => this.#dial,
      probe: new ActivityProbe(model, LOOK_MS, tell),
      signal,
    });
    return await each(tokens, tell);
  }

  async #compare(
    { prompt, maxTokens }: Calls["compare"]["argument"],
    tell: Tell<"compare">,
    signal: AbortSignal,
  ): Promise<Calls["compare"]["result"]> {
    const { model } = this.#model;
    if (model.recipe === null) throw new Error("Without a recipe there is nothing sparse to compare with");
    const dense = await this.#denseModel(tell, signal);
    const ids = promptOf(model, [{ role: "user", content: prompt }]);
    return await each(
      duel({ dense, sparse: model, prompt: ids, maxTokens, dial: () => this.#dial, signal }),
      tell,
    );
  }

  /** A copy without the recipe; the model itself where memory does not suffice. */
  async #denseModel(tell: TellProgress, signal: AbortSignal): Promise<Model> {
    if (this.#dense !== null) return this.#dense;
    const { model, files } = this.#model;
    try {
      return this.#dense = await Model.load(files, {
        threads: "auto",
        recipe: null,
        signal,
        onProgress: ({ loaded, total }) => tell({ what: "a second copy, for dense", done: loaded, total }),
      });
    } catch (error) {
      if (error instanceof RangeError) return model;
      throw error;
    }
  }

  async #bench(
    choice: Calls["bench"]["argument"],
    tell: Tell<"bench">,
    signal: AbortSignal,
  ): Promise<Calls["bench"]["result"]> {
    const { runBenchmark } = await import("./bench.ts"), loaded = this.#loaded;
    const subject = loaded === null
      ? null
      : { name: loaded.model.name, source: () => loaded.files, recipe: loaded.model.recipe };
    return await runBenchmark(choice, subject, tell, signal);
  }

  async #keep(tell: TellProgress, signal: AbortSignal): Promise<Kept> {
    const loaded = this.#model, { model, files, recipe } = loaded;
    const kept = await keepFiles(model.name, files, recipe, (done, total) => {
      tell({ what: model.name, done, total });
    }, signal);
    this.#loaded = { ...loaded, kept: kept.id };
    return kept;
  }
}

type Call<N extends CallName> = (
  argument: Calls[N]["argument"],
  tell: Tell<N>,
) => Promise<Calls[N]["result"]>;

/** Tells each event; returns what comes at the end. */
async function each<T, R>(events: AsyncGenerator<T, R>, tell: (event: T) => void): Promise<R> {
  for (;;) {
    const { done, value } = await events.next();
    if (done) return value;
    tell(value);
  }
}

async function ownModel(): Promise<OwnModel | null> {
  const response = await fetch(OWN);
  return response.ok ? await response.json() as OwnModel | null : null;
}

async function readWhole(response: Response, { name, bytes }: OwnModel, tell: TellProgress): Promise<Blob> {
  const chunks: Uint8Array[] = [], reader = response.body!.getReader();
  for (let done = 0;;) {
    const piece = await reader.read();
    if (piece.done) return new Blob(chunks as BlobPart[]);
    chunks.push(piece.value);
    tell({ what: name, done: done += piece.value.length, total: bytes });
  }
}

function infoOf({ model, kept }: Loaded): ModelInfo {
  const { config, description, info, recipe } = model;
  return {
    name: model.name,
    parameters: description.parameters,
    quantization: description.quantization,
    layers: config.numHiddenLayers,
    contextLength: model.engine.contextLength,
    chats: description.chatTemplate !== null,
    recipe: recipe === null
      ? null
      : { method: recipe.recipe.method, sparsity: recipe.recipe.sparsity, range: dialRange(recipe.recipe) },
    kept: kept !== null,
    kernels: info.kernels,
    threads: info.threads,
    threadsReason: info.threadsReason,
    storage: [...new Set(Object.values(info.storage))].join(", "),
    memoryBytes: model.memory.wasmBytes,
    loadMs: model.loadMs,
    warnings: model.warnings,
  };
}
