/** Stands in for `node:path` in a page: paths of the harness's machine, with slashes. */

/** As `node:path` has it. */
export function join(...parts: readonly string[]): string {
  const out: string[] = [];
  const all = parts.filter((part) => part !== "").join("/");
  for (const part of all.split("/")) {
    if (part === "" || part === ".") continue;
    if (part === "..") out.pop();
    else out.push(part);
  }
  return (all.startsWith("/") ? "/" : "") + out.join("/");
}

/** As `node:path` has it. */
export function dirname(path: string): string {
  const at = path.lastIndexOf("/");
  return at <= 0 ? "/" : path.slice(0, at);
}

/** As `node:path` has it. */
export function basename(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}
