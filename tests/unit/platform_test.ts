import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { platform as browser } from "../../src/platform/browser.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import { VERSION } from "../../src/version.ts";
import { thisRuntime } from "../support/runtimes.ts";
import { rootPath } from "../support/shared.ts";

const platform = await detectPlatform();
const folder = (): string => mkdtempSync(join(tmpdir(), "rsparse-platform-"));
/** SHA-256 of "abc", FIPS 180-2 appendix B.1. */
const ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

test("detectPlatform: names this runtime and its version", () => {
  assert.match(platform.runtime, /^(deno|node|bun) \d+\.\d+\.\d+/);
  assert.equal(platform.runtime.split(" ")[0], thisRuntime().name.split("-")[0]);
});

test("Platform.openBlob: slices as a Blob does, without reading the rest", async () => {
  const path = join(folder(), "bytes");
  const bytes = new Uint8Array(3_000_000).map((_, i) => i % 251);
  writeFileSync(path, bytes);
  const blob = await platform.openBlob(path);
  const model = new Blob([bytes]);
  assert.ok(blob instanceof Blob);
  assert.equal(blob.size, bytes.length);
  for (
    const range of [[0, 4], [5], [-3], [2, 1], [10, 10], [2_999_990, 4_000_000], [-10, -4], []] as [
      number?,
      number?,
    ][]
  ) {
    const part = blob.slice(...range), wanted = model.slice(...range);
    assert.equal(part.size, wanted.size, String(range));
    assert.deepEqual(await part.arrayBuffer(), await wanted.arrayBuffer(), String(range));
  }
  const inner = blob.slice(100, 200).slice(-50, 70);
  assert.deepEqual(new Uint8Array(await inner.arrayBuffer()), bytes.slice(150, 170));
  let streamed = 0;
  const reader = blob.stream().getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) streamed += next.value.length;
  assert.equal(streamed, bytes.length);
  writeFileSync(path, "text");
  assert.equal(await (await platform.openBlob(path)).text(), "text");
});

test("Platform.openBlob: a file that became shorter is an error, not zeros", async () => {
  const path = join(folder(), "bytes");
  writeFileSync(path, new Uint8Array(1000));
  const blob = await platform.openBlob(path);
  writeFileSync(path, new Uint8Array(10));
  await assert.rejects(async () => {
    const got = (await blob.slice(500, 600).arrayBuffer()).byteLength;
    // Bun gives fewer bytes than the slice had, which every reader of this project checks.
    if (got < 100) throw new RangeError("short");
  });
});

test("Platform.openBlob: nothing there is an error", async () => {
  await assert.rejects(async () => await (await platform.openBlob(join(folder(), "none"))).arrayBuffer());
});

test("Platform.stat: a file, a folder, nothing, nothing below a file", async () => {
  const home = folder();
  writeFileSync(join(home, "file"), "four");
  utimesSync(join(home, "file"), 1_000_000, 1_000_001.5);
  assert.deepEqual(await platform.stat(join(home, "file")), {
    kind: "file",
    size: 4,
    modified: 1_000_001_500,
  });
  assert.equal((await platform.stat(home))?.kind, "folder");
  assert.equal(await platform.stat(join(home, "none")), null);
  assert.equal(await platform.stat(join(home, "file", "below")), null);
  assert.deepEqual(await platform.list(home), ["file"]);
});

test("Platform.openWriter: appends, or starts anew with truncate", async () => {
  const path = join(folder(), "out");
  for (
    const [text, truncate, whole] of [["one", true, "one"], ["two", false, "onetwo"], [
      "new",
      true,
      "new",
    ]] as const
  ) {
    const writer = await platform.openWriter(path, { truncate });
    await writer.write(new TextEncoder().encode(text));
    await writer.close();
    assert.equal(readFileSync(path, "utf8"), whole);
  }
});

test("Platform.sha256: of several blobs as if they were one, past the size of a chunk", async () => {
  const seen: number[] = [];
  const parts = [new Blob(["a"]), new Blob([]), new Blob(["bc"])];
  assert.equal(await platform.sha256(parts, (bytes) => void seen.push(bytes)), ABC);
  assert.equal(seen.at(-1), 3);
  assert.equal(await browser.sha256(parts), ABC);
  const large = new Blob([new Uint8Array(5_000_001).fill(7)]);
  assert.equal(await platform.sha256([large]), await browser.sha256([large]));
});

test("Platform.tryLock: one holder at a time", async () => {
  const path = join(folder(), "lock");
  const first = await platform.tryLock(path);
  assert.ok(first);
  assert.equal(await platform.tryLock(path), null);
  await first.release();
  const second = await platform.tryLock(path);
  assert.ok(second);
  await second.release();
});

test("Platform.run: status and output of a program, an error where there is none", async () => {
  const command = process.versions["deno" as "node"]
    ? ["eval", "console.log('out');console.error('err');Deno.exit(3)"]
    : [
      "-e",
      "console.log('out');console.error('err');process.exit(3)",
    ];
  const { code, stdout, stderr } = await platform.run!(process.execPath, command);
  assert.deepEqual([code, stdout.trim(), stderr.trim()], [3, "out", "err"]);
  await assert.rejects(platform.run!("no-such-program-here", []));
});

test("Platform.cacheDir: RSPARSE_HOME, then XDG_CACHE_HOME", () => {
  const saved = { home: process.env["RSPARSE_HOME"], xdg: process.env["XDG_CACHE_HOME"] };
  const set = (name: string, value: string | undefined): void => {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  };
  try {
    set("RSPARSE_HOME", "/own");
    set("XDG_CACHE_HOME", "/xdg");
    assert.equal(platform.cacheDir(), "/own");
    set("RSPARSE_HOME", undefined);
    assert.equal(platform.cacheDir(), join("/xdg", "rsparse"));
    set("XDG_CACHE_HOME", undefined);
    assert.match(platform.cacheDir(), /rsparse$/);
  } finally {
    set("RSPARSE_HOME", saved.home);
    set("XDG_CACHE_HOME", saved.xdg);
  }
});

test("Platform: memory and time are numbers that make sense", () => {
  assert.ok(platform.rssBytes()! > 1 << 20);
  assert.ok(platform.uptimeMs() > 0);
});

test("the browser's platform: no files, and it says so", async () => {
  assert.equal(browser.hasFiles, false);
  assert.equal(await browser.stat("x"), null);
  await assert.rejects(browser.openBlob("x"), /pass a Blob or a URL/);
  assert.throws(() => browser.cacheDir(), /no files here/);
});

test("VERSION: that of package.json", () => {
  assert.equal(VERSION, JSON.parse(readFileSync(rootPath("package.json"), "utf8")).version);
});
