import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { rootPath } from "../support/shared.ts";

/** What each folder of `src/` may import, itself apart: the table of `docs/architecture.md`. */
const ALLOWED: { readonly [folder: string]: readonly string[] } = {
  errors: [],
  version: [],
  platform: ["errors"],
  format: ["errors"],
  kernels: ["errors", "format/checkpoint", "format/base64"],
  recipe: ["errors", "format", "model/config"],
  model: ["errors", "format"],
  hub: ["errors", "format", "platform/platform"],
  runtime: ["errors", "format", "model", "recipe", "kernels", "hub", "platform"],
  calibrate: ["errors", "format", "model", "recipe", "kernels", "platform/platform", "runtime"],
  eval: ["errors", "format", "model", "recipe", "kernels", "platform/platform", "runtime"],
  plot: ["errors"],
  analyze: [
    "errors",
    "format",
    "model",
    "recipe",
    "kernels",
    "platform/platform",
    "runtime",
    "calibrate",
    "eval",
    "plot",
  ],
  search: [
    "errors",
    "format",
    "model",
    "recipe",
    "kernels",
    "platform/platform",
    "platform/detect",
    "runtime",
    "calibrate",
    "eval",
  ],
  deadline: ["recipe", "runtime/exp"],
  xr: ["errors", "format", "runtime/exp", "eval/divergence", "plot", "deadline"],
  server: ["errors", "model", "recipe", "runtime", "deadline"],
  edge: ["errors", "model", "platform", "runtime", "server"],
  tiny: ["errors", "platform", "hub"],
  mod: ["errors", "format", "model", "recipe", "kernels", "runtime", "calibrate", "platform", "hub"],
};
/** npm packages by the folder that may name them. */
const PACKAGES: { readonly [folder: string]: readonly string[] } = {
  hub: ["@huggingface/hub"],
  model: ["@huggingface/jinja", "@huggingface/tokenizers"],
  eval: ["js-rouge"],
  plot: ["vega", "vega-lite"],
  search: ["bullmq", "ioredis"],
  xr: ["@cfworker/json-schema"],
  server: ["hono"],
  cli: ["commander"],
};
/** Names that not every runtime has. */
const RUNTIME_NAMES = /(?<![\w.#`"'])(Deno|Bun|process|document|window|Buffer|require)\s*[.(]/;

interface ImportLine {
  readonly file: string;
  readonly specifier: string;
}

const SRC = rootPath("src");
const FILES = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .map((name) => name.replaceAll("\\", "/")).filter((name) => name.endsWith(".ts"));

/** Without comments, whose examples import and name what they like. */
function codeOf(file: string): string {
  return readFileSync(join(SRC, file), "utf8").replace(/\/\*[\s\S]*?\*\//g, "").replace(
    /(^|\s)\/\/.*$/gm,
    "$1",
  );
}

function importsOf(file: string): ImportLine[] {
  const code = codeOf(file);
  const patterns = [
    /^\s*(?:import|export)\b[^;"']*?\bfrom\s*"([^"]+)"/gm,
    /^\s*import\s*"([^"]+)"/gm,
    /\bimport\(\s*"([^"]+)"/g,
  ];
  return patterns.flatMap((pattern) =>
    [...code.matchAll(pattern)].map((match) => ({ file, specifier: match[1]! }))
  );
}

/** `src/` folder or, for files directly in it, their name: `model`, `errors`. */
function partOf(path: string): string {
  return path.includes("/") ? path.split("/")[0]! : path.replace(/\.ts$/, "");
}

const LINES = FILES.flatMap(importsOf);

test("src: imports go one way, as docs/architecture.md has them", () => {
  const wrong = LINES.filter(({ file, specifier }) => {
    const part = partOf(file);
    if (part === "cli") return false;
    if (!specifier.startsWith(".")) return false;
    const target = relative(SRC, join(dirname(join(SRC, file)), specifier)).replaceAll("\\", "/");
    if (target.startsWith("../build/")) return part !== "kernels" && part !== "runtime";
    if (partOf(target) === part) return false;
    return !(ALLOWED[part] ?? []).some((allowed) =>
      target === `${allowed}.ts` || target.startsWith(`${allowed}/`)
    );
  });
  assert.deepEqual(wrong, []);
  assert.ok(LINES.length > 50, "the pattern found import lines");
});

test("src: npm packages and node: modules where they are allowed", () => {
  const wrong = LINES.filter(({ file, specifier }) => {
    if (specifier.startsWith(".")) return false;
    const part = partOf(file);
    if (specifier.startsWith("node:")) {
      return part !== "cli" &&
        (part !== "platform" || file === "platform/browser.ts" || file === "platform/detect.ts");
    }
    const packages = PACKAGES[part] ?? [],
      isAllowed = packages.some((name) => specifier === name || specifier.startsWith(`${name}/`));
    return builtinModules.includes(specifier) || !isAllowed;
  });
  assert.deepEqual(wrong, []);
});

test("src: only platform and cli name a runtime", () => {
  const wrong = FILES.filter((file) => !["platform", "cli"].includes(partOf(file)))
    .filter((file) => RUNTIME_NAMES.test(codeOf(file).replace(/"[^"\n]*"|`[^`]*`/g, '""')));
  assert.deepEqual(wrong, []);
});

test("src: every folder is in the table", () => {
  const unknown = [...new Set(FILES.map(partOf))].filter((part) => part !== "cli" && !(part in ALLOWED));
  assert.deepEqual(unknown, []);
});
