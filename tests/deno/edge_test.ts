/** The examples for Deno Deploy and Supabase, bundled as they are deployed, in processes that may listen on their port and read their own folder. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { gzipSync } from "node:zlib";
import { Model } from "../../src/mod.ts";
import { ask, bundleEdge, readStream, startEdge } from "../support/edge.ts";

const folder = mkdtempSync(join(tmpdir(), "rsparse-edges-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const MESSAGES = [{ role: "user", content: "Tell me a story." }];

for (
  const [edge, path, kernels] of [["deno", "", "relaxed"], ["supabase", "/functions/v1/tiny", "baseline"], [
    "supabase",
    "/tiny",
    "baseline",
  ]] as const
) {
  test(`edge-${edge}: streams the tokens that the model gives anywhere, at ${path}/v1`, async () => {
    const bundle = await bundleEdge(edge, join(folder, `${edge}${path.length}`)),
      running = await startEdge(bundle, process.execPath);
    try {
      const url = `${running.url}${path}/v1/chat/completions`,
        body = { messages: MESSAGES, temperature: 0, sparsity: 0.5, max_tokens: 16 };
      // the first request comes while the model loads, and waits for it
      const { parts, done, finish } = await readStream(await ask(url, { ...body, stream: true }));
      await using model = await Model.load("tiny", { kernels });
      let wanted = "";
      for await (const { text } of model.chat(MESSAGES, { sparsity: 0.5, maxTokens: 16 })) wanted += text;
      assert.equal(parts.map(({ text }) => text).join(""), wanted);
      assert.ok(done && finish !== null && parts.length > 4, `${parts.length} parts, ${finish}`);
      // more than it may give
      const { status } = await ask(url, { ...body, max_tokens: 201 });
      assert.equal(status, edge === "supabase" ? 400 : 200);
      assert.equal(running.stderr().replace(/Deno\.serve: request\.signal aborts[^\n]*\n/, ""), "");
    } finally {
      await running.stop();
    }
    const size = (name: string): number => statSync(join(bundle.folder, name)).size;
    const core = [bundle.code, bundle.kernels].reduce(
      (sum, name) => sum + gzipSync(readFileSync(join(bundle.folder, name))).length,
      0,
    );
    assert.ok(core <= 120_000, `code and kernels are ${core} bytes compressed`);
    assert.ok(size(bundle.code) + size(bundle.kernels) + size(bundle.model) <= 20_000_000);
  });
}
