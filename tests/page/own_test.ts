/** The model that comes with the page: a pack with a recipe of its own, opened by one press. */
import assert from "node:assert/strict";
import { mkdtempSync, openAsBlob, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { calibrateModel, serialiseRecipe } from "../../src/calibrate/mod.ts";
import { Model } from "../../src/mod.ts";
import { tableOf } from "../../src/recipe/recipe.ts";
import { packOf } from "../support/packs.ts";
import { answerOf, send, settings, withPage } from "../support/page.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const STORIES = "data/models/stories260K";
const skip = skipWithout(STORIES);

/** A pack with a recipe, as the embedded model is one. */
async function storyPack(): Promise<Uint8Array<ArrayBuffer>> {
  const folder = requireShared(STORIES);
  await using model = await Model.load(folder);
  const text = "Once upon a time there was a little girl named Lily. She loved to play outside. ".repeat(12);
  const loaded = await calibrateModel(model, {
    text,
    source: "a test",
    tokens: 128,
    sparsity: 0.5,
    dialStreams: [],
  });
  const bytes = new Uint8Array(
    await new Blob(serialiseRecipe(loaded.recipe, new Map(), tableOf(loaded)) as BlobPart[]).arrayBuffer(),
  );
  const sha256 = await model.platform.sha256([new Blob([bytes])]);
  const files = await Promise.all(["stories260K.bin", "tok512.bin"].map(async (name) => ({
    name,
    blob: await openAsBlob(join(folder, name)),
  })));
  return await packOf(files, "int8", { recipe: { loaded: { ...loaded, sha256 }, bytes }, name: "stories" });
}

test(
  "page: its own model opens by one press, with its recipe, and is compared with a dense copy",
  { skip },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "rsparse-own-")), pack = await storyPack();
    try {
      writeFileSync(join(folder, "own.rsparse"), pack);
      writeFileSync(
        join(folder, "model.json"),
        JSON.stringify({ name: "stories", file: "own.rsparse", bytes: pack.length }),
      );
      const extra = new Map(["own.rsparse", "model.json"].map((name) => [`/${name}`, join(folder, name)]));
      await withPage({ isolated: true, extra }, async ({ page }) => {
        assert.match(await page.locator("#own-text").innerText(), /^stories, \d+ kB, comes with this page$/);
        await page.locator("#own-open").click();
        await page.locator("#chat").waitFor({ state: "visible" });
        assert.match(await page.locator("#dial-note").innerText(), /Recipe: by-site, made for 50 %/);
        assert.equal(await page.locator("#sparsity-out").innerText(), "50 %");
        await settings(page, { temperature: 0, maxTokens: 20 });
        await send(page, "Once upon a time");
        assert.match((await answerOf(page)).meta, /(4|5)\d\.\d % skipped · dial 50 %/);

        await page.locator("#tab-compare").click();
        await page.locator("#compare-run").click();
        await page.waitForFunction(() => /times|fast/.test(document.querySelector("#verdict")!.textContent!));
        assert.doesNotMatch(await page.locator("#verdict").innerText(), /packed for skipping/);
        await page.locator("#tab-model").click();
        assert.equal(await page.locator("#keep").isVisible(), false, "it comes with the page");
      });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);

test("page: offers no model of its own where it was built without one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "rsparse-none-")), none = join(folder, "model.json");
  writeFileSync(none, "null");
  try {
    await withPage({ isolated: true, extra: new Map([["/model.json", none]]) }, async ({ page }) => {
      assert.equal(await page.locator("#own-open").isVisible(), false);
      assert.match(
        await page.locator("#own-text").innerText(),
        /without one: choose a file, or give an address/,
      );
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("page: its own model is one click away, and speaks with the dial", async () => {
  await withPage({ isolated: true }, async ({ page }) => {
    assert.equal(await page.locator("#own-open").isVisible(), true);
    await page.locator("#own-open").click();
    await page.locator("#chat").waitFor({ state: "visible" });
    await settings(page, { temperature: 0, maxTokens: 30 });
    await send(page, "Tell me a short story about a fox.");
    const { text, meta } = await answerOf(page);
    assert.ok(text.length > 20, text);
    assert.match(meta, /% skipped · dial \d+ %/);
  });
});
