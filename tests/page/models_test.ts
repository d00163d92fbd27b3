/** Where the page has models from: dropped files, a web address, this browser's storage; and what it says when it can't. */
import assert from "node:assert/strict";
import { createReadStream, statSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { answerOf, BROWSER, openFiles, type Page, send, settings, withPage } from "../support/page.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const STORIES = "data/models/stories260K", TINY = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(STORIES) || skipWithout(TINY);

function storyFiles(): string[] {
  const folder = requireShared(STORIES);
  return ["stories260K.bin", "tok512.bin"].map((name) => join(folder, name));
}

/** Drops files that the page's server has, as a person's mouse would. */
async function drop(page: Page, paths: readonly string[]): Promise<void> {
  await page.evaluate(async (paths) => {
    const data = new DataTransfer();
    for (const path of paths) {
      const blob = await (await fetch(path)).blob();
      data.items.add(new File([blob], path.replace(/^.*\//, "")));
    }
    for (const type of ["dragover", "drop"]) {
      document.body.dispatchEvent(
        new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }),
      );
    }
  }, paths);
}

async function tell(page: Page): Promise<string> {
  await settings(page, { temperature: 0.8, maxTokens: 30, seed: 11 });
  await send(page, "Once upon a time");
  return (await answerOf(page)).text;
}

test("page: files are dropped, kept, opened after a reload, and deleted", { skip }, async () => {
  const extra = new Map(storyFiles().map((path) => [`/test/${path.replace(/^.*\//, "")}`, path]));
  await withPage({ isolated: true, extra }, async ({ page }) => {
    assert.match(await page.locator("#shelf-note").innerText(), /^Nothing yet\./);
    await drop(page, [...extra.keys()]);
    await page.locator("#chat").waitFor({ state: "visible" });
    assert.match(
      await page.locator("#model-line").innerText(),
      /^stories260K · 260 thousand parameters · \d+ thread/,
    );
    assert.equal(await page.locator("#drop").isVisible(), false);
    const text = await tell(page);
    assert.ok(text.length > 20, text);

    await page.locator("#tab-model").click();
    await page.getByRole("button", { name: "Keep the open model in this browser" }).click();
    await page.getByRole("button", { name: "Open stories260K" }).waitFor({ state: "visible" });
    await page.reload();
    await page.getByRole("button", { name: "Open stories260K" }).click();
    await page.locator("#chat").waitFor({ state: "visible" });
    assert.equal(await tell(page), text, "the same model, settings and seed");

    await page.locator("#tab-model").click();
    assert.equal(await page.locator("#keep").isVisible(), false, "it is kept already");
    await page.getByRole("button", { name: "Delete stories260K" }).click();
    await page.waitForFunction(() => document.querySelectorAll("#shelf li").length === 0);
    await page.reload();
    await page.waitForFunction(() =>
      document.querySelector("#shelf-note")!.textContent!.startsWith("Nothing yet.")
    );
  });
});

test("page: a recipe that is made in it is kept with the model", { skip }, async () => {
  await withPage({ isolated: true }, async ({ page }) => {
    await openFiles(page, storyFiles());
    assert.ok(await page.locator("#sparsity").isDisabled());
    await page.locator("#tab-model").click();
    await page.locator("#keep").click();
    await page.getByRole("button", { name: "Open stories260K" }).waitFor({ state: "visible" });
    await page.locator("#tab-chat").click();
    await page.getByRole("button", { name: "Calibrate here" }).click();
    await page.waitForFunction(() =>
      document.querySelector<HTMLInputElement>("#sparsity")!.disabled === false
    );
    assert.match(await page.locator("#dial-note").innerText(), /Recipe: by-site, made for 40 %/);
    await page.reload();
    await page.getByRole("button", { name: "Open stories260K" }).click();
    await page.locator("#chat").waitFor({ state: "visible" });
    assert.ok(!await page.locator("#sparsity").isDisabled());
    await tell(page);
    assert.match((await answerOf(page)).meta, /3\d\.\d % skipped · dial 40 %|4\d\.\d % skipped · dial 40 %/);
  });
});

/** A server of another origin that cuts the first answer in the middle. */
async function cuttingServer(
  path: string,
): Promise<{ server: Server; url: string; ranges: (string | null)[] }> {
  const { size } = statSync(path), ranges: (string | null)[] = [];
  const server = createServer((request, response) => {
    const range = request.headers.range ?? null, from = Number(/\d+/.exec(range ?? "0")?.[0]);
    ranges.push(range);
    response.writeHead(range === null ? 200 : 206, {
      "Access-Control-Allow-Origin": "*",
      "Last-Modified": "Mon, 02 Nov 2026 10:00:00 GMT",
      "Content-Length": size - from,
    });
    const half = Math.floor(size / 2);
    if (ranges.length > 1) createReadStream(path, { start: from }).pipe(response);
    else {
      createReadStream(path, { end: half - 1 })
        .on("end", () => setTimeout(() => response.destroy(), 300)).pipe(response, { end: false });
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { server, url: `http://127.0.0.1:${port}/llama-f32.gguf`, ranges };
}

test(
  "page: a download that was cut goes on where it was, and is there after a reload",
  { skip },
  async () => {
    const { server, url, ranges } = await cuttingServer(requireShared(TINY));
    try {
      await withPage({ isolated: true, allow: new URL(url).origin }, async ({ page, takeErrors }) => {
        await page.locator("#url").fill(url);
        await page.locator("#url-get").click();
        await page.locator("#error").waitFor({ state: "visible" });
        assert.match(
          await page.locator("#error-text").innerText(),
          /^The connection broke after \d+ of \d+ bytes: “Go on” takes it up there$/,
        );
        // the browser itself notes a connection that broke
        takeErrors();
        await page.getByRole("button", { name: "Go on downloading llama-f32.gguf" }).click();
        await page.locator("#chat").waitFor({ state: "visible" });
        assert.equal(ranges.length, 2);
        assert.match(ranges[1]!, /^bytes=[1-9]\d*-$/);
        await page.reload();
        await page.getByRole("button", { name: "Open llama-f32.gguf" }).click();
        await page.locator("#chat").waitFor({ state: "visible" });
        assert.equal(ranges.length, 2, "it did not come from the network again");
      });
    } finally {
      server.close();
      server.closeAllConnections();
    }
  },
);

test("page: what can't be opened is said in words, and the model before it stays", { skip }, async () => {
  const broken = join(tmpdir(), `rsparse-broken-${crypto.randomUUID()}.gguf`);
  writeFileSync(broken, "GGUF and nothing that fits");
  await withPage({ isolated: false }, async ({ page, takeErrors }) => {
    await openFiles(page, storyFiles());
    await page.locator("#tab-model").click();
    await page.locator("#files").setInputFiles([broken]);
    await page.locator("#error").waitFor({ state: "visible" });
    assert.match(await page.locator("#error-text").innerText(), /Cannot read rsparse-broken.*: at byte 4: /);
    await page.getByRole("button", { name: "Dismiss" }).click();
    assert.equal(await page.locator("#error").isVisible(), false);

    for (
      const [address, words] of [
        ["ftp://example.com/model.gguf", /“ftp:” addresses can't be read: one that begins with https:/],
        ["nothing-here.gguf", /The server answered 404 .*: check the address/],
      ] as const
    ) {
      await page.locator("#url").fill(address);
      await page.locator("#url-get").click();
      await page.waitForFunction(
        (pattern) => new RegExp(pattern).test(document.querySelector("#error-text")!.textContent!),
        words.source,
      );
    }
    // the browser itself notes the 404
    takeErrors();
    assert.equal(await page.locator("#shelf li").count(), 0, "nothing is left of them");
    await page.locator("#tab-chat").click();
    const long = "Once upon a time ".repeat(200);
    await send(page, long);
    await page.locator("#error").waitFor({ state: "visible" });
    assert.match(
      await page.locator("#error-text").innerText(),
      /more than the context of 512: shorten the prompt/,
    );
    assert.equal(await page.locator("#prompt").inputValue(), long, "one can shorten what one wrote");
    assert.equal(await page.locator("#messages li").count(), 0);
    assert.ok((await tell(page)).length > 20);
  });
});

// only Chromium's protocol can say how much room a page has
if (BROWSER === "chromium") {
  test("page: too little room is said, with what to do", { skip }, async () => {
    await withPage({ isolated: true }, async ({ page, url }) => {
      await openFiles(page, storyFiles());
      const session = await page.context().newCDPSession(page);
      await session.send("Storage.overrideQuotaForOrigin", { origin: url.slice(0, -1), quotaSize: 400_000 });
      await page.locator("#tab-model").click();
      await page.locator("#keep").click();
      await page.locator("#error").waitFor({ state: "visible" });
      assert.match(
        await page.locator("#error-text").innerText(),
        /This browser can't keep the model\. (There is no room for it|It takes .* left for the page)\. .*dropped files are not copied/,
      );
      assert.equal(await page.locator("#shelf li").count(), 0, "nothing is left of it");
    });
  });
}
