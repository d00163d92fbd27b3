/** Bundles `examples/browser` into `build/page/`: static files that any server can hand out. */
import { copyFileSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { BROWSER, licencesOf } from "./build.ts";
import { ROOT } from "./prepare.ts";

/** Where the page is built. */
export const PAGE: string = join(ROOT, "build", "page");
const SOURCE = join(ROOT, "examples", "browser");
/** The embedded model, which comes with the page. */
const OWN = { name: "tiny", path: join(ROOT, "models", "tiny.rsparse") };

/** Builds the page, in place of what was there. */
export async function bundlePage(): Promise<void> {
  rmSync(PAGE, { recursive: true, force: true });
  mkdirSync(PAGE, { recursive: true });
  const { metafile } = await build({
    ...BROWSER,
    entryPoints: { main: join(SOURCE, "main.ts"), worker: join(SOURCE, "worker", "worker.ts") },
    outdir: PAGE,
    chunkNames: "chunks/[name]-[hash]",
    minify: true,
    metafile: true,
  });
  for (const name of ["index.html", "style.css"]) copyFileSync(join(SOURCE, name), join(PAGE, name));
  writeFileSync(join(PAGE, "THIRD_PARTY_LICENSES.txt"), licencesOf(Object.keys(metafile.inputs)));
  const own = { name: OWN.name, file: "tiny.rsparse", bytes: statSync(OWN.path).size };
  copyFileSync(OWN.path, join(PAGE, own.file));
  writeFileSync(join(PAGE, "model.json"), `${JSON.stringify(own)}\n`);
}
