/** Files as the caller has them: a name, which errors repeat, and bytes that are read by slices. */
export interface NamedBlob {
  /** A path, a URL, or a file name. */
  readonly name: string;
  readonly blob: Blob;
}

/** A file's name without its folders; the query of a URL is not part of it. */
export function baseName(name: string): string {
  return pathOf(name).split(/[\\/]/).pop() ?? "";
}

/** What a model is called by its file: the name without folders and ending. */
export function stemOf(name: string): string {
  return baseName(name).replace(/\.(gguf|bin|safetensors|rsparse)$/i, "");
}

/** The folder that a file lies in, or the file's own name where that has none. */
export function folderOf(name: string): string {
  const path = pathOf(name);
  const end = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return end <= 0 ? path : path.slice(0, end);
}

function pathOf(name: string): string {
  return /^https?:/.test(name) ? name.replace(/[?#].*$/s, "") : name;
}
