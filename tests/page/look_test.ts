/** How the page looks and is used: narrow, dark, by keyboard, by ear. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import {
  answerOf,
  BROWSER,
  openFiles,
  type Page,
  send,
  settings,
  streamed,
  withPage,
} from "../support/page.ts";
import { pulledModel } from "../support/models.ts";
import { requireShared, rootPath, skipWithout } from "../support/shared.ts";

const STORIES = "data/models/stories260K";
const skip = skipWithout(STORIES);
const TABS = ["chat", "compare", "bench", "model"] as const;
// Firefox has no command for it yet: its page follows the system, which is light
const SCHEMES = BROWSER === "chromium" ? ["light", "dark"] as const : ["light"] as const;

function storyFiles(): string[] {
  return ["stories260K.bin", "tok512.bin"].map((name) => join(requireShared(STORIES), name));
}

/** What axe-core says is serious or critical. */
async function seriousIssues(page: Page): Promise<string[]> {
  return await page.evaluate(async () => {
    if (!("axe" in globalThis)) {
      await new Promise<void>((resolve, reject) => {
        const script = document.createElement("script");
        // from the page's own origin, as its policy wants it
        script.src = "/test/axe.js";
        script.onload = () => resolve();
        script.onerror = () => reject(new Error("no axe-core"));
        document.head.append(script);
      });
    }
    const { axe } = globalThis as unknown as { axe: { run(): Promise<{ violations: Violation[] }> } };
    interface Violation {
      readonly id: string;
      readonly impact: string;
      readonly nodes: readonly { readonly html: string }[];
    }
    const { violations } = await axe.run();
    return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, impact, nodes }) => `${impact}: ${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  });
}

const AXE = new Map([["/test/axe.js", rootPath("tests/runtimes/node_modules/axe-core/axe.min.js")]]);

test("page: no sideways scrolling at 360 px, and nothing serious for axe-core, on any tab, light and dark", {
  skip,
}, async () => {
  await withPage({ isolated: false, extra: AXE }, async ({ page }) => {
    const look = async (what: string): Promise<void> => {
      for (const name of TABS) {
        await page.locator(`#tab-${name}`).click();
        const wide = await page.evaluate(() =>
          document.documentElement.scrollWidth - document.documentElement.clientWidth
        );
        assert.ok(wide <= 0, `${what}, ${name}: ${wide} px too wide`);
        assert.deepEqual(await seriousIssues(page), [], `${what}, ${name}`);
      }
    };
    for (const width of [360, 1280]) {
      await page.setViewportSize({ width, height: 740 });
      for (const colorScheme of SCHEMES) {
        if (BROWSER === "chromium") await page.emulateMedia({ colorScheme });
        await look(`without a model, ${width} px, ${colorScheme}`);
      }
    }
    await openFiles(page, storyFiles());
    await page.getByRole("button", { name: "Calibrate here" }).click();
    await page.waitForFunction(() =>
      document.querySelector<HTMLInputElement>("#sparsity")!.disabled === false
    );
    await settings(page, { temperature: 0, maxTokens: 60 });
    await send(page, "Once upon a time".repeat(4) + "x".repeat(80));
    await answerOf(page);
    await page.locator("#settings summary").click();
    await page.locator("#tab-model").click();
    await page.locator("#url").fill("http://");
    await page.locator("#url-get").click();
    await page.locator("#error").waitFor({ state: "visible" });
    for (const width of [360, 1280]) {
      await page.setViewportSize({ width, height: 740 });
      for (const colorScheme of SCHEMES) {
        if (BROWSER === "chromium") await page.emulateMedia({ colorScheme });
        await look(`with a model, ${width} px, ${colorScheme}`);
      }
    }
  });
});

test(
  "page: works by keyboard alone, and says to listeners what has ended, not every word",
  { skip },
  async () => {
    await withPage({ isolated: true }, async ({ page }) => {
      const focused = (): Promise<string | undefined> => page.evaluate(() => document.activeElement?.id);
      await page.evaluate(() => {
        const said: string[] = [];
        (globalThis as unknown as { said: string[] }).said = said;
        new MutationObserver(() => said.push(document.querySelector("#announce")!.textContent!))
          .observe(document.querySelector("#announce")!, {
            childList: true,
            characterData: true,
            subtree: true,
          });
      });
      const said = (): Promise<string[]> =>
        page.evaluate(() => (globalThis as unknown as { said: string[] }).said.filter((text) => text !== ""));

      await page.locator("#tab-model").focus();
      for (
        const [key, tab] of [["ArrowRight", "tab-chat"], ["ArrowLeft", "tab-model"], ["Home", "tab-chat"], [
          "End",
          "tab-model",
        ]] as const
      ) {
        await page.keyboard.press(key);
        assert.equal(await focused(), tab);
        assert.equal(await page.locator(`#${tab}`).getAttribute("aria-selected"), "true");
      }
      await page.locator("#files").setInputFiles([
        await pulledModel(),
        rootPath("models/smollm2-135m-instruct-learned.safetensors"),
      ]);
      await page.locator("#chat").waitFor({ state: "visible" });
      assert.equal(await focused(), "prompt", "one can write at once");

      await page.locator("#sparsity").focus();
      await page.keyboard.press("ArrowRight");
      assert.equal(await page.locator("#sparsity").getAttribute("aria-valuetext"), "51 %");
      await page.keyboard.press("Home");
      assert.equal(
        await page.locator("#sparsity").getAttribute("aria-valuetext"),
        "dense, nothing is skipped",
      );

      await settings(page, { temperature: 0, maxTokens: 2000 });
      await page.locator("#prompt").focus();
      await send(page, "Count to a thousand, please.");
      await streamed(page, 30);
      await page.keyboard.press("Escape");
      const { text } = await answerOf(page);
      assert.equal(await focused(), "prompt");
      await page.waitForFunction(() =>
        (globalThis as unknown as { said: string[] }).said.some((text) => text.startsWith("Stopped"))
      );
      const all = await said();
      assert.deepEqual(all.slice(-2), ["Answering", `Stopped: ${text}`]);
      assert.ok(all.length < 10, all.join("\n"));
    });
  },
);
