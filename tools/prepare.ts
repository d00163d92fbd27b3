/** Builds the kernels when their sources changed; `deno task rsparse`, `build`, `check` and `test` call it first. */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout. */
export const ROOT: string = dirname(dirname(fileURLToPath(import.meta.url)));

const STAMP = join(ROOT, "build", "kernels.stamp");
/** What the kernels are made of. The lock file is there for the compiler's version. */
const SOURCES = ["assembly", "asconfig.json", "tools/build_kernels.ts", "deno.lock"];
const PRODUCTS = ["kernels_baseline.js", "kernels_relaxed.js"];

/** Name, size and time of every source: reading their text as well would cost each start of the program more. */
function sourceState(): string {
  const lines: string[] = [];
  const visit = (relative: string): void => {
    const path = join(ROOT, relative);
    if (!existsSync(path)) return;
    const stat = statSync(path);
    if (stat.isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(`${relative}/${name}`);
    } else {
      lines.push(`${relative} ${stat.size} ${stat.mtimeMs}`);
    }
  };
  SOURCES.forEach(visit);
  return lines.join("\n");
}

/** Builds the kernels unless those in `build/` were made from the sources as they are. */
export async function prepare(): Promise<void> {
  const state = sourceState();
  const built = PRODUCTS.every((name) => existsSync(join(ROOT, "build", name)));
  if (built && existsSync(STAMP) && readFileSync(STAMP, "utf8") === state) return;
  console.error("building kernels …");
  // Not a literal: the compiler and its libraries would be read at every start otherwise.
  const tool = new URL("./build_kernels.ts", import.meta.url).href;
  const { buildKernels } = await import(tool) as { buildKernels(): Promise<void> };
  await buildKernels();
  mkdirSync(dirname(STAMP), { recursive: true });
  writeFileSync(STAMP, state);
}

if (import.meta.main) await prepare();
