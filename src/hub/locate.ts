/** From what a user typed after `-m` to the open files of a model. */
import { HubError } from "../errors.ts";
import type { Platform } from "../platform/platform.ts";
import { EMBEDDED_MODEL, embeddedPath, embeddedUrl, openEmbedded } from "./embedded.ts";
import type { DownloadContext } from "./download.ts";
import { cachedModel, cachedSource, isCompanion, pullModel, type PullResult, unknownModel } from "./pull.ts";
import { findModel } from "./registry.ts";

/** A model's files, none of them read. */
export interface LocatedModel {
  readonly name: string;
  /** The first is the weights, or the first of their shards; `name` is the path or URL. */
  readonly files: readonly { readonly name: string; readonly blob: Blob }[];
  /** The weights' path, where there are files. */
  readonly cachedPath?: string;
}

const SHARD = /^(.*)-\d{5}-of-(\d{5})\.safetensors$/;

/**
 * Finds a model's files; those of a known name, a `hf:` or an `http(s):` URL are pulled if the cache lacks them.
 *
 * @param source A known name, a path of a file or a folder, a `file:`, `http(s):` URL, or `hf:owner/repo[/file][@revision]`.
 * @throws {HubError} If there is no such model, or it can't be had.
 */
export async function locateModel(
  source: string,
  platform: Platform,
  options: Omit<DownloadContext, "platform"> = {},
): Promise<LocatedModel> {
  if (source === EMBEDDED_MODEL) {
    const blob = await openEmbedded(platform, options.signal), url = embeddedUrl();
    const path = url.protocol === "file:" ? embeddedPath() : undefined;
    return { name: source, files: [{ name: path ?? url.href, blob }], cachedPath: path };
  }
  const known = findModel(source);
  const remote = /^(hf:|https?:)/.test(source);
  if (known || remote) {
    if (!platform.hasFiles) return await fetchWhole(source, options);
    const cached = known ? await cachedModel(known, platform) : await cachedSource(source, platform);
    return await openPulled(cached ?? await pullModel(source, { ...options, platform }), platform);
  }
  if (!platform.hasFiles) throw unknownModel(source);
  const path = source.startsWith("file:") ? pathOf(source) : source;
  const found = await platform.stat(path);
  if (found === null) {
    if (/[/\\]|\.(gguf|safetensors|bin|rsparse)$/.test(path)) {
      throw new HubError("not_found", `Cannot open ${path}: there is no such file or folder: check the path`);
    }
    throw unknownModel(source);
  }
  const paths = found.kind === "folder"
    ? await filesOfFolder(path, platform)
    : await filesBeside(path, platform);
  return await openFiles(nameOf(path), paths, platform);
}

async function openPulled(pulled: PullResult, platform: Platform): Promise<LocatedModel> {
  const weightsFirst = [...pulled.files].sort((a, b) =>
    Number(b.endsWith(".safetensors")) - Number(a.endsWith(".safetensors"))
  );
  return await openFiles(pulled.name, weightsFirst, platform);
}

async function openFiles(name: string, paths: readonly string[], platform: Platform): Promise<LocatedModel> {
  const files = await Promise.all(
    paths.map(async (path) => ({ name: path, blob: await platform.openBlob(path) })),
  );
  return { name, files, cachedPath: paths[0] };
}

/** Where there are no files, a URL is read whole into memory. */
async function fetchWhole(source: string, options: Omit<DownloadContext, "platform">): Promise<LocatedModel> {
  if (!/^https?:/.test(source)) {
    throw new HubError(
      "unknown_model",
      `Cannot open ${source}: there is no cache here: pass an http(s): URL or a Blob`,
    );
  }
  const response = await (options.fetch ?? fetch)(source, { signal: options.signal });
  if (!response.ok) throw new HubError("not_found", `Cannot download ${source}: HTTP ${response.status}`);
  return { name: nameOf(source), files: [{ name: source, blob: await response.blob() }] };
}

function pathOf(source: string): string {
  try {
    const { pathname } = new URL(source);
    const path = decodeURIComponent(pathname);
    // file:///C:/model.gguf
    return /^\/[A-Za-z]:\//.test(path) ? path.slice(1) : path;
  } catch (error) {
    throw new HubError("not_found", `Cannot open ${source}: it is no valid file: URL`, { cause: error });
  }
}

function nameOf(path: string): string {
  return path.replace(/[/\\]+$/, "").replace(/^.*[/\\]/, "").replace(/\.(gguf|safetensors|bin|rsparse)$/, "");
}

function join(folder: string, name: string): string {
  return folder === "" || /[/\\]$/.test(folder) ? folder + name : `${folder}/${name}`;
}

/** A file and what belongs to it: the other shards, the configuration and the tokenizer of a safetensors or llama2.c file. */
async function filesBeside(path: string, platform: Platform): Promise<string[]> {
  const folder = path.replace(/[^/\\]*$/, "");
  const name = path.slice(folder.length);
  if (/\.(gguf|rsparse)$/.test(name)) return [path];
  const names = await platform.list(folder || ".");
  const shard = SHARD.exec(name);
  if (shard) {
    const others = names.filter((other) => {
      const match = SHARD.exec(other);
      return match !== null && match[1] === shard[1] && match[2] === shard[2] && other !== name;
    });
    const all = [name, ...others].sort();
    return [...all, ...names.filter(isCompanion)].map((other) => join(folder, other));
  }
  const beside = name.endsWith(".safetensors")
    ? names.filter(isCompanion)
    : name.endsWith(".bin")
    ? names.filter((other) => /^tok.*\.bin$/.test(other) && other !== name).slice(0, 1)
    : [];
  return [path, ...beside.map((other) => join(folder, other))];
}

async function filesOfFolder(folder: string, platform: Platform): Promise<string[]> {
  const names = await platform.list(folder);
  const tensors = names.filter((name) => name.endsWith(".safetensors"));
  const others = names.filter((name) => /\.(gguf|bin|rsparse)$/.test(name) && !/^tok.*\.bin$/.test(name));
  if (tensors.length > 0 && names.includes("config.json")) {
    return [...tensors, ...names.filter(isCompanion)].map((name) => join(folder, name));
  }
  if (others.length === 1) return await filesBeside(join(folder, others[0]!), platform);
  const what = others.length === 0
    ? "a .gguf or .rsparse file, or .safetensors files with their config.json and tokenizer.json, wanted"
    : `it holds ${others.length} models: name one, such as ${join(folder, others[0]!)}`;
  throw new HubError("not_found", `Cannot open the folder ${folder}: ${what}`);
}
