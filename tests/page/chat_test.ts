/** The page's main job, in the browser of this run: open a model, chat, turn the dial, stop; with threads and without. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { REPEAT_PENALTY } from "../../examples/browser/worker/conversation.ts";
import { Model } from "../../src/mod.ts";
import { pulledModel } from "../support/models.ts";
import { answerOf, openFiles, type Page, send, settings, streamed, withPage } from "../support/page.ts";
import { rootPath } from "../support/shared.ts";

const RECIPE = rootPath("models/smollm2-135m-instruct-learned.safetensors");
const QUESTION = "What is gravity?";
/**
 * The page lays matrices out by timing, and int4 rounds by layout in the relaxed build: of the 16 ways that there are, two go on with other words after token 19, and all agree up to there.
 */
const TOKENS = 14;

/** Moves the slider as the keyboard does. */
async function turnTo(page: Page, sparsity: number): Promise<void> {
  await page.evaluate((value) => {
    const slider = document.querySelector<HTMLInputElement>("#sparsity")!;
    slider.value = String(value);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  }, sparsity);
}

/** What Deno answers, with the page's repeat penalty. */
async function answerHere(maxTokens: number): Promise<string> {
  await using model = await Model.load(await pulledModel(), { threads: 1 });
  let text = "";
  const messages = [{ role: "user", content: QUESTION }];
  for await (const part of model.chat(messages, { maxTokens, repeatPenalty: REPEAT_PENALTY })) {
    text += part.text;
  }
  return text;
}

for (const isolated of [true, false]) {
  const where = isolated ? "isolated" : "not isolated";

  test(`page, ${where}: answers as the library does, and says on how many threads and why`, async () => {
    await withPage({ isolated }, async ({ page }) => {
      await openFiles(page, [await pulledModel(), RECIPE]);
      const line = await page.locator("#model-line").innerText();
      if (isolated) assert.match(line, /· [2-9]\d* threads$/);
      else {assert.match(
          line,
          /· 1 thread: not cross-origin isolated$/,
        );}
      assert.equal(await page.evaluate(() => crossOriginIsolated), isolated);
      const facts = await page.locator("#facts").textContent();
      if (!isolated) {
        assert.match(facts!, /Threads1: the page is not .*: serve it with COOP and COEP headers/);
      }

      await settings(page, { temperature: 0, maxTokens: TOKENS });
      await turnTo(page, 0);
      await send(page, QUESTION);
      const { text, meta } = await answerOf(page);
      assert.equal(text, await answerHere(TOKENS));
      assert.match(
        meta,
        /^14 tokens · [\d.]+ tokens\/s · first after [\d.]+ s · 0\.0 % skipped · dial dense/,
      );
      assert.match(await page.locator("#live-speed").innerText(), /^[\d.]+ tokens\/s$/);
      assert.match(
        await page.locator("#activity").getAttribute("aria-label") ?? "",
        /in 30 layers.*query, key, value 100 % on average/,
      );

      // the second turn knows of the first
      await send(page, "Say that in five words.");
      assert.notEqual((await answerOf(page)).text, "");
      assert.equal(await page.locator("#messages li").count(), 4);
    });
  });

  test(`page, ${where}: the dial acts while an answer is written, and stop ends it`, async () => {
    await withPage({ isolated }, async ({ page }) => {
      await openFiles(page, [await pulledModel(), RECIPE]);
      await settings(page, { temperature: 1, maxTokens: 2000, seed: 5 });
      await turnTo(page, 0.3);
      await send(page, "Write a long story about a lighthouse.");
      await streamed(page, 40);
      await turnTo(page, 0.7);
      await page.waitForFunction(() =>
        parseFloat(document.querySelector("#live-skipped")!.textContent!) > 55
      );
      await page.locator("#stop").click();
      const { text, meta } = await answerOf(page);
      assert.ok(text.length >= 40, text);
      const [, tokens, from] =
        /^(\d+) tokens · .* · dial 30 %, 70 % from token (\d+) · stopped$/.exec(meta) ?? [];
      assert.ok(Number(from) > 1 && Number(from) <= Number(tokens), meta);
      assert.ok(Number(tokens) < 2000, meta);
      const kept = await page.locator("#messages li.assistant").last().locator(".text").textContent();
      assert.equal(kept, text, "nothing comes after the stop");
      assert.equal(await page.evaluate(() => document.activeElement?.id), "prompt");

      // what was stopped does not hold up what comes next
      await settings(page, { temperature: 0, maxTokens: 3 });
      await send(page, "Thank you.");
      assert.match((await answerOf(page)).meta, /^[123] tokens?/);
    });
  });
}
