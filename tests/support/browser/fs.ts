/** Stands in for `node:fs` in a page's worker: reads through the harness's server, which has the files. */

/** Where the server has a file. */
export function urlOf(path: string): string {
  return `/fs${path.split("/").map(encodeURIComponent).join("/")}`;
}

function request(path: string, method: "GET" | "HEAD"): XMLHttpRequest {
  // Synchronous, as the functions of `node:fs` are: a worker may.
  const xhr = new XMLHttpRequest();
  xhr.open(method, urlOf(path), false);
  xhr.responseType = "arraybuffer";
  xhr.send();
  return xhr;
}

function bytesOf(path: string): Uint8Array<ArrayBuffer> {
  const xhr = request(path, "GET");
  if (xhr.status !== 200) throw new Error(`Cannot read ${path}: ${xhr.status}`);
  return new Uint8Array(xhr.response as ArrayBuffer);
}

/** As `node:fs` has it. */
export function existsSync(path: string): boolean {
  return request(path, "HEAD").status === 200;
}

/** As `node:fs` has it, for UTF-8 or bytes. */
export function readFileSync(path: string, encoding?: "utf8"): string | Uint8Array<ArrayBuffer> {
  const bytes = bytesOf(path);
  return encoding === undefined ? bytes : new TextDecoder().decode(bytes);
}

/** The names in a folder. */
export function readdirSync(path: string): string[] {
  return JSON.parse(readFileSync(path, "utf8") as string) as string[];
}

/** All of its bytes are in memory. */
export async function openAsBlob(path: string): Promise<Blob> {
  const response = await fetch(urlOf(path));
  if (!response.ok) throw new Error(`Cannot read ${path}: ${response.status}`);
  return await response.blob();
}
