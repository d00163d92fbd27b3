/** Dense and sparse side by side, and the benchmark, in the browser of this run. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { BROWSER, openFiles, withPage } from "../support/page.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const STORIES = "data/models/stories260K";
const skip = skipWithout(STORIES);

function storyFiles(): string[] {
  return ["stories260K.bin", "tok512.bin"].map((name) => join(requireShared(STORIES), name));
}

for (const isolated of [true, false]) {
  test(`page, ${isolated ? "" : "not "}isolated: dense and sparse write side by side`, { skip }, async () => {
    await withPage({ isolated }, async ({ page }) => {
      await openFiles(page, storyFiles());
      await page.locator("#tab-compare").click();
      assert.ok(await page.locator("#compare-run").isDisabled());
      assert.match(await page.locator("#verdict").innerText(), /no recipe yet/);
      await page.getByRole("button", { name: "Calibrate here" }).click();
      await page.locator("#chat").waitFor({ state: "visible" });

      await page.locator("#tab-compare").click();
      await page.locator("#compare-prompt").fill("Once upon a time");
      await page.locator("#compare-prompt").press("Enter");
      await page.waitForFunction(() => /times|fast/.test(document.querySelector("#verdict")!.textContent!));
      for (const side of ["dense", "sparse"]) {
        assert.match(
          await page.locator(`#${side}-figure`).innerText(),
          /^[\d.]+ tokens\/s · \d+ tokens(, cut)?$/,
        );
        assert.ok((await page.locator(`#${side}-text`).innerText()).length > 20);
      }
      const [, skipped, same] =
        /with ([\d.]+) % of the multiply-adds skipped\. The texts are the same for .*?(\d+) tokens?\./
          .exec(await page.locator("#verdict").innerText()) ?? [];
      assert.ok(Number(skipped) > 30 && Number(skipped) < 50, `${skipped} % skipped`);
      assert.ok(Number(same) >= 1, "the first token comes from the same prompt");
      assert.equal(await page.evaluate(() => document.activeElement?.id), "compare-run");
    });
  });
}

test("page: the benchmark measures this browser and gives its JSON", { skip }, async () => {
  await withPage({ isolated: true }, async ({ page }) => {
    if (BROWSER === "chromium") await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await openFiles(page, storyFiles());
    await page.locator("#tab-bench").click();
    await page.locator("#bench-kernels").click();
    await page.locator("#bench-run").click();
    await page.locator("#bench-done").waitFor({ state: "visible" });
    const text = await page.locator("#bench-json").inputValue(), results = JSON.parse(text);
    assert.equal(results.format, 1);
    assert.deepEqual(results.missing, []);
    assert.equal(results.settings.model, "stories260K");
    assert.match(results.versions.kernels, /^kernels [0-9a-f]{12}$/);
    assert.match(results.versions[BROWSER], new RegExp(`^${BROWSER} \\d+`));
    const runs = results.runs as {
      what: string;
      threads: number;
      engine: string;
      rows: { variant: string }[];
    }[];
    assert.deepEqual(
      runs.map(({ what, threads }) => `${what} ${threads}`),
      ["decode 1", "decode 2", "prefill 1", "prefill 2", "load 1"],
    );
    assert.ok(runs.every(({ engine, rows }) => engine === BROWSER && rows.length === 1));
    assert.equal(await page.locator("#bench-table tbody tr").count(), 5);
    await page.getByRole("button", { name: "Copy the JSON" }).click();
    await page.waitForFunction(() => document.querySelector("#bench-copied")!.textContent !== "");
    assert.equal(await page.locator("#bench-copied").innerText(), "Copied.");
    if (BROWSER === "chromium") assert.equal(await page.evaluate(() => navigator.clipboard.readText()), text);
  });
});

test("page: the benchmark stops, with what there is by then", { skip }, async () => {
  await withPage({ isolated: false }, async ({ page }) => {
    await page.locator("#tab-bench").click();
    assert.ok(await page.locator("#bench-tokens").isDisabled(), "there is no model");
    await page.locator("#bench-run").click();
    await page.waitForFunction(() => document.querySelector("#bench-what")!.textContent !== "");
    await page.locator("#bench-stop").click();
    await page.locator("#bench-done").waitFor({ state: "visible" });
    assert.equal(JSON.parse(await page.locator("#bench-json").inputValue()).settings.model, null);
    assert.equal(await page.locator("#error").isVisible(), false);
  });
});
