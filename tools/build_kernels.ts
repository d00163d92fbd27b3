/**
 * Builds the kernels: `assembly/baseline.ts`, `assembly/relaxed.ts` → `build/kernels.{baseline,relaxed,debug}.wasm`; for the first two also
 * `kernels.*.shared.wasm`, which import shared memory, and a module that exports the plain bytes in base64, so that no runtime has to read a
 * file to get either.
 */
import { Buffer } from "node:buffer";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import asc from "assemblyscript/asc";
import { withSharedMemory } from "../src/kernels/probe.ts";

const ROOT = new URL("..", import.meta.url);
const COMMON = [
  "--runtime",
  "stub",
  "--importMemory",
  "--initialMemory",
  "1",
  "--enable",
  "simd",
  "--enable",
  "threads",
];
const BUILDS: { readonly [name: string]: readonly string[] } = {
  baseline: ["assembly/baseline.ts", "-O3", "--noAssert"],
  relaxed: ["assembly/relaxed.ts", "-O3", "--noAssert", "--enable", "relaxed-simd"],
  debug: ["assembly/baseline.ts", "--debug"],
};

/** The module that AssemblyScript makes of `flags`, an entry file among them. @throws {Error} With the compiler's own messages. */
export async function compileAssembly(what: string, flags: readonly string[]): Promise<Uint8Array> {
  let bytes: Uint8Array | undefined;
  let messages = "";
  const sink = { write: (text: string) => ((messages += text), true) };
  const { error } = await asc.main([...COMMON, ...flags, "--outFile", "kernels.wasm"], {
    stdout: sink,
    stderr: sink,
    readFile: async (file: string, base: string) => {
      try {
        return await readFile(new URL(`${base}/${file}`, ROOT), "utf8");
      } catch {
        return null;
      }
    },
    writeFile: (file: string, contents: string | Uint8Array) => {
      if (file.endsWith(".wasm")) bytes = contents as Uint8Array;
    },
    listFiles: () => null,
  });
  if (error || bytes === undefined) throw new Error(`${what} do not compile:\n${messages}`, { cause: error });
  return bytes;
}

/** Compiles every build. @throws {Error} With the compiler's own messages, if one does not compile. */
export async function buildKernels(): Promise<void> {
  const out = new URL("build/", ROOT);
  await mkdir(out, { recursive: true });
  for (const [name, flags] of Object.entries(BUILDS)) {
    const bytes = await compileAssembly(`kernels (${name})`, flags);
    await writeFile(new URL(`kernels.${name}.wasm`, out), bytes);
    if (name !== "debug") {
      await writeFile(new URL(`kernels.${name}.shared.wasm`, out), withSharedMemory(new Uint8Array(bytes)));
      const base64 = Buffer.from(bytes).toString("base64");
      await writeFile(
        new URL(`kernels_${name}.js`, out),
        `// made by tools/build_kernels.ts\nexport default ${JSON.stringify(base64)};\n`,
      );
      await writeFile(
        new URL(`kernels_${name}.d.ts`, out),
        "declare const base64: string;\nexport default base64;\n",
      );
    }
  }
}

if (import.meta.main) await buildKernels();
