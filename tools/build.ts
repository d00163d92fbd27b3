/** `deno task build`: the kernels, then `dist/`: JavaScript modules that Node 20, Deno and Bun run, and their types; and the page of `examples/browser`. */
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { join } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { build, type BuildOptions, type Plugin, stop, transform } from "esbuild";
import { bundlePage } from "./build_page.ts";
import { prepare, ROOT } from "./prepare.ts";

/** What `dist/` and the bundled tests have in common; npm packages and `node:` modules stay imports. */
export const BUNDLE: BuildOptions = {
  absWorkingDir: ROOT,
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "neutral",
  target: "es2022",
  packages: "external",
  logLevel: "warning",
};

/**
 * What bundles for browsers have in common: npm packages are in them, `node:` modules stay imports of adapters for other runtimes, which a page never
 * loads.
 */
export const BROWSER: BuildOptions = {
  ...BUNDLE,
  platform: "browser",
  packages: "bundle",
  external: builtinModules.map((name) => `node:${name}`),
  // its `exports` name only the build for Node
  alias: {
    "@huggingface/hub": join(ROOT, "node_modules", "@huggingface", "hub", "dist", "browser", "index.mjs"),
  },
};

/** The source of a module, for bundling: paths that it makes from its own stay those of the source. */
export function sourceAtHome(path: string): string {
  return readFileSync(path, "utf8").replaceAll("import.meta.url", JSON.stringify(pathToFileURL(path).href));
}

/** `src/hub/embedded.ts` knows this folder. */
const CHUNKS = "chunks/[name]-[hash]";

/** Kernel builds that come as files, for whoever imports or compiles them himself. */
const KERNELS = ["kernels.baseline.wasm", "kernels.relaxed.wasm"];

/** Entry points of the library, by their names in `dist/`; those for pages are without what draws plots, which takes 0.8 MB. */
const LIBRARY = {
  tiny: "src/tiny.ts",
  mod: "src/mod.ts",
  calibrate: "src/calibrate/mod.ts",
  eval: "src/eval/mod.ts",
  xr: "src/xr/mod.ts",
  xr_real: "src/xr/real/mod.ts",
  xr_worker: "src/xr/real/worker.ts",
  serve: "src/server/mod.ts",
};
/** Packages that `npm install rsparse` brings; others are bundled, in chunks that are read when a plot is drawn. */
function dependencies(): string[] {
  return Object.keys(JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).dependencies);
}

/** Minifies what comes from packages and leaves our own modules readable: Vega and Vega-Lite are 0.9 MB where they would be 1.9. */
const MINIFY_PACKAGES: Plugin = {
  name: "minify-packages",
  setup(plugin) {
    plugin.onLoad({ filter: /[\\/]node_modules[\\/].*\.m?js$/ }, async ({ path }) => {
      const { code } = await transform(readFileSync(path, "utf8"), { minify: true, legalComments: "none" });
      return { contents: code, loader: "js" };
    });
  },
};

/** The licences of the packages and data that these inputs of a bundle are of, each once: what is shipped with it has to name them. */
export function licencesOf(inputs: readonly string[]): string {
  const folders = new Set(
    inputs.flatMap((path) => /^.*[\\/]node_modules[\\/](@[^\\/]+[\\/])?[^\\/]+/.exec(path)?.[0] ?? []),
  );
  const texts = [...folders].sort().map((folder) => {
    const at = join(ROOT, folder),
      { name, version, license } = JSON.parse(readFileSync(join(at, "package.json"), "utf8"));
    const file = ["LICENSE", "LICENSE.md", "LICENSE.txt", "license"].map((name) => join(at, name)).find(
      existsSync,
    );
    return `${name} ${version} (${license})\n\n${
      file === undefined ? "" : readFileSync(file, "utf8").trim()
    }\n`;
  });
  if (inputs.some((path) => path.startsWith("src/xr/data/"))) {
    texts.push(readFileSync(join(ROOT, "src", "xr", "data", "LICENSE"), "utf8"));
  }
  return texts.join(`\n${"-".repeat(80)}\n\n`);
}

/** What the edge bundle has in place of modules that only other places need. */
const AT_THE_EDGE: readonly (readonly [RegExp, string])[] = [
  [/\/platform\/detect\.ts$/, "src/edge/detect.ts"],
  [/\/hub\/locate\.ts$/, "src/edge/locate.ts"],
  [/\/(kernels_(baseline|relaxed)\.js|reference_kernels\.ts)$/, "src/edge/no_kernels.ts"],
];

/**
 * The whole of `rsparse/edge` in one module, npm packages included; or with `define` and `entry` an example that is made of it.
 *
 * @param conditions where packages are resolved
 */
export function edgeBundle(outfile: string, more: Partial<BuildOptions> = {}): BuildOptions {
  return {
    ...BUNDLE,
    entryPoints: ["src/edge/mod.ts"],
    splitting: false,
    packages: "bundle",
    mainFields: ["module", "main"],
    minify: true,
    outfile,
    ...more,
    plugins: [{
      name: "edge",
      setup(plugin) {
        plugin.onResolve({ filter: /^\./ }, ({ path }) => {
          const found = AT_THE_EDGE.find(([pattern]) => pattern.test(path));
          return found === undefined ? null : { path: join(ROOT, found[1]) };
        });
      },
    }, ...more.plugins ?? []],
  };
}

/** Bundles the library, for runtimes and for browsers, and the command line program into `dist/`, in place of what was there; and the page into `build/page/`. */
export async function bundle(): Promise<void> {
  rmSync(join(ROOT, "dist"), { recursive: true, force: true });
  const { metafile } = await build({
    ...BUNDLE,
    packages: "bundle",
    external: [...dependencies(), "node:*"],
    mainFields: ["module", "main"],
    entryPoints: {
      ...LIBRARY,
      analyze: "src/analyze/mod.ts",
      search: "src/search/mod.ts",
      search_worker: "src/search/worker.ts",
      xr_plots: "src/xr/plots.ts",
      cli: "src/cli/main.ts",
    },
    outdir: "dist",
    chunkNames: CHUNKS,
    define: { RSPARSE_FOLDERS: JSON.stringify({ models: "../models/", kernels: "./" }) },
    metafile: true,
    plugins: [MINIFY_PACKAGES],
  });
  const edge = await build({ ...edgeBundle("dist/edge/mod.js"), metafile: true });
  for (const name of KERNELS) copyFileSync(join(ROOT, "build", name), join(ROOT, "dist", name));
  const browser = await build({
    ...BROWSER,
    entryPoints: LIBRARY,
    outdir: "dist/browser",
    chunkNames: CHUNKS,
    define: { RSPARSE_FOLDERS: JSON.stringify({ models: "../../models/", kernels: "../" }) },
    minify: true,
    metafile: true,
  });
  for (
    const [folder, { inputs }] of [["dist", metafile], ["dist/browser", browser.metafile], [
      "dist/edge",
      edge.metafile,
    ]] as const
  ) {
    writeFileSync(join(ROOT, folder, "THIRD_PARTY_LICENSES.txt"), licencesOf(Object.keys(inputs)));
  }
  chmodSync(join(ROOT, "dist", "cli.js"), 0o755);
  await bundlePage();
}

/** Writes type declarations for everything under `src/` but the command line into `dist/types`. */
export function declarations(): void {
  const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
  const options = [
    "--noEmit",
    "false",
    "--emitDeclarationOnly",
    "--rootDir",
    "src",
    "--outDir",
    "dist/types",
  ];
  const { status } = spawnSync(process.execPath, ["run", "-A", tsc, "-p", "tsconfig.json", ...options], {
    cwd: ROOT,
    stdio: ["ignore", 2, 2],
  });
  if (status !== 0) throw new Error("Cannot write type declarations: the errors of tsc are above");
  // Symbol.dispose is in no `lib` up to ES2025: without this line a user's own settings would have to name it
  for (const name of ["model", "session"]) {
    const path = join(ROOT, "dist", "types", "runtime", `${name}.d.ts`);
    writeFileSync(path, `/// <reference lib="esnext.disposable" />\n${readFileSync(path, "utf8")}`);
  }
}

if (import.meta.main) {
  await prepare();
  await bundle();
  await stop();
  declarations();
}
