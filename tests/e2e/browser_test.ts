/** The library as a page has it: the bundle for browsers, a model that the page fetches, in a worker and on the page's own thread. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { Model } from "../../src/mod.ts";
import { runInChromium, skipWithoutChromium } from "../support/chromium.ts";
import { thisRuntime } from "../support/runtimes.ts";
import { requireShared, rootPath, skipWithout } from "../support/shared.ts";

interface Answer {
  readonly text: string;
  readonly isolated: boolean;
  readonly threads: number;
  readonly threadsReason: string | null;
  readonly runtime: string;
}

const LIBRARY = "dist/browser/mod.js";
// One runtime drives the page: what is tested is the same on all of them.
const skip = skipWithout("data/models/stories260K") || skipWithoutChromium() ||
  (thisRuntime().name === "deno" ? false : "Deno's run drives the page") ||
  (existsSync(rootPath(LIBRARY)) ? false : "there is no dist/browser: deno task build");

const OPTIONS = { maxTokens: 40, temperature: 0.8, seed: 7, ignoreEos: true } as const;
const PAGE = `
export async function main({ library, files, kernels, options }) {
  const { Model } = await import(library);
  const blobs = await Promise.all(files.map(async (name) => ({ name, blob: await (await fetch(name)).blob() })));
  const model = await Model.load(blobs, { kernels, threads: 2 });
  let text = "";
  for await (const part of model.generate("Once upon a time", options)) text += part.text;
  const { runtime, threads, threadsReason } = model.info;
  await model.close();
  return { text, isolated: crossOriginIsolated, runtime, threads, threadsReason };
}
`;

async function generateInPage(options: {
  readonly isolated: boolean;
  readonly thread: "page" | "worker";
}): Promise<Answer> {
  const folder = requireShared("data/models/stories260K");
  return await runInChromium<Answer>({ source: PAGE }, {
    ...options,
    roots: [folder, rootPath("dist/browser")],
    argument: {
      library: `/fs${rootPath(LIBRARY)}`,
      files: ["stories260K.bin", "tok512.bin"].map((name) => `/fs${folder}/${name}`),
      kernels: "baseline",
      options: OPTIONS,
    },
  });
}

async function generateHere(): Promise<string> {
  await using model = await Model.load(requireShared("data/models/stories260K"), {
    kernels: "baseline",
    threads: 1,
  });
  let text = "";
  for await (const part of model.generate("Once upon a time", OPTIONS)) text += part.text;
  return text;
}

for (
  const [what, options] of Object.entries(
    {
      "in a worker of an isolated page": { isolated: true, thread: "worker" },
      "in a worker of a page that is not isolated": { isolated: false, thread: "worker" },
      "on the thread of an isolated page": { isolated: true, thread: "page" },
      "on the thread of a page that is not isolated": { isolated: false, thread: "page" },
    } as const,
  )
) {
  test(
    `browser: ${what}, the library loads a model and writes the text of this runtime`,
    { skip },
    async () => {
      const answer = await generateInPage(options);
      assert.equal(answer.text, await generateHere());
      assert.equal(answer.isolated, options.isolated);
      assert.match(answer.runtime, /^browser .*Chrome\/\d+/);
      assert.equal(answer.threads, options.isolated ? 2 : 1);
      if (options.isolated) assert.equal(answer.threadsReason, null);
      else assert.match(answer.threadsReason!, /not cross-origin isolated/);
    },
  );
}

test("browser: the embedded model by its name, from the folder of the package", { skip }, async () => {
  const source = `
export async function main({ library }) {
  const { Model } = await import(library);
  const model = await Model.load("tiny", { kernels: "baseline" });
  let text = "";
  for await (const part of model.generate("Once upon a time", { maxTokens: 12, sparsity: 0.5, ignoreEos: true })) text += part.text;
  return { text, name: model.name };
}`;
  const found = await runInChromium<{ text: string; name: string }>({ source }, {
    roots: [rootPath("dist/browser"), rootPath("models")],
    argument: { library: `/fs${rootPath(LIBRARY)}` },
  });
  await using model = await Model.load("tiny", { kernels: "baseline" });
  let wanted = "";
  const options = { maxTokens: 12, sparsity: 0.5, ignoreEos: true };
  for await (const part of model.generate("Once upon a time", options)) wanted += part.text;
  assert.deepEqual(found, { text: wanted, name: model.name });
});
