/**
 * `deno task test [--runtime NAME] [FILTER]`: every test under `tests/` whose path contains FILTER, on Deno, Node 20,
 * Node 24 and Bun; those that a page can run in Chromium; those of `tests/workerd` with workerd, which Deno starts; those of the page of `examples/browser` in
 * Chromium and Firefox (`page-chromium`, `page-firefox`); and the examples of the docstrings on Deno. The last line counts tests over all runtimes.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { availableParallelism, freemem } from "node:os";
import process from "node:process";
import { parseArgs } from "node:util";
import { build, stop } from "esbuild";
import { findWorkerd } from "../tests/support/edge.ts";
import { type BrowserName, BROWSERS } from "../tests/support/page.ts";
import { type Runtime, runtimes } from "../tests/support/runtimes.ts";
import { BUNDLE, bundle, sourceAtHome } from "./build.ts";
import { installChromium } from "./chromium.ts";
import { installFirefox } from "./firefox.ts";
import { installOpenai } from "./openai.ts";
import { prepare, ROOT } from "./prepare.ts";
import { installRedis } from "./redis.ts";
import { installRuntimes } from "./runtimes.ts";

/**
 * What a page can't do: start programs, listen, write files, hash and unpack by Node's modules. The two files run SmolLM2 for 150 s; that its bits are those of
 * other runtimes is in `tests/parity`.
 */
const NOT_IN_A_PAGE =
  /node:(child_process|http|os|zlib|crypto|module)"|support\/(cli|process|runtimes|chromium)\.ts"|from "esbuild"/;
const NOT_IN_CHROMIUM = ["tests/golden/logits_test.ts", "tests/golden/rsparse_test.ts"];
/** Folders whose files are a job each, since they run SmolLM2 for minutes, and which begin first, so that no long one is left at the end. */
const LONG = ["parity", "golden", "e2e"];
/** Of these a file is a job. */
const BY_FILE = ["parity", "golden"];
/** What a job may take: a model in f32, its copy while it loads, and the runtime. */
const JOB_BYTES = 2.5e9;
/** Longest time for one process of tests. */
const TIMEOUT_MS = 15 * 60_000;

type RuntimeName = Runtime["name"] | "chromium" | "workerd" | `page-${BrowserName}`;
const RUNTIMES: readonly RuntimeName[] = [
  ...["deno", "node-20", "node-24", "bun", "chromium", "workerd"] as const,
  ...BROWSERS.map(pageName),
];
/** Those that npm has for most platforms; browsers say themselves why they are not to be had. */
const FROM_NPM = /^(node|bun)/;
/** Tests of what runs in workerd, whose runner is Deno's; of what only Deno has; and of the page, which drive a browser. */
const WORKERD = /^tests\/workerd\//, DENO = /^tests\/deno\//, PAGE = /^tests\/page\//;

interface Job {
  readonly runtime: RuntimeName;
  readonly what: string;
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

/** Test files and scripts that tests start, by their names' ends. */
function filesUnderTests(end: string): string[] {
  return readdirSync(join(ROOT, "tests"), { recursive: true, encoding: "utf8" })
    .map((name) => `tests/${name.replaceAll("\\", "/")}`)
    .filter((path) => path.endsWith(end) && !path.startsWith("tests/runtimes/"))
    .sort();
}

/** Bundles tests for Node 20, which has no TypeScript. Paths that tests make from their own stay those of the sources. */
async function bundleTests(): Promise<void> {
  rmSync(join(ROOT, "build", "tests"), { recursive: true, force: true });
  await build({
    ...BUNDLE,
    entryPoints: [...filesUnderTests("_test.ts"), ...filesUnderTests("_script.ts")],
    outdir: "build/tests",
    outbase: "tests",
    sourcemap: "linked",
    plugins: [{
      name: "own-paths",
      setup(plugin) {
        plugin.onLoad(
          { filter: /[\\/]tests[\\/].*\.ts$|[\\/]src[\\/]hub[\\/]embedded\.ts$/ },
          ({ path }) => ({ contents: sourceAtHome(path), loader: "ts" }),
        );
      },
    }],
  });
}

/** `dist/` and the bundled tests are made again when a file they are made of is newer. */
async function bundleIfOld(): Promise<void> {
  const stamp = join(ROOT, "build", "tests.stamp");
  const newest = [
    "src",
    "tests",
    "tools",
    "examples/browser",
    "models",
    "build/kernels.stamp",
    "package.json",
  ].flatMap(
    (entry) => {
      const path = join(ROOT, entry);
      if (!statSync(path).isDirectory()) return [path];
      return readdirSync(path, { recursive: true, encoding: "utf8" })
        .filter((name) => !/node_modules|^runtimes/.test(name)).map((name) => join(path, name));
    },
  ).reduce((time, path) => Math.max(time, statSync(path).mtimeMs), 0);
  const made = existsSync(stamp) && existsSync(join(ROOT, "dist", "cli.js"));
  if (made && Number(readFileSync(stamp, "utf8")) === newest) return;
  await bundle();
  await bundleTests();
  await stop();
  mkdirSync(dirname(stamp), { recursive: true });
  writeFileSync(stamp, String(newest));
}

/** Files of a folder in one job, but for folders whose tests are long. */
function jobsOf(
  runtime: RuntimeName,
  files: readonly string[],
  command: (files: readonly string[]) => string[],
): Job[] {
  return [...new Set(files.map(folderOf))].flatMap((folder) => {
    const inFolder = files.filter((path) => folderOf(path) === folder);
    if (!BY_FILE.includes(folder)) return [{ runtime, what: `tests/${folder}`, command: command(inFolder) }];
    return inFolder.map((file) => ({ runtime, what: file, command: command([file]) }));
  });
}

/** The place of a job in the order of work: long ones first, then as they come. */
function turnOf({ what }: Job): number {
  const at = LONG.indexOf(folderOf(what));
  return at < 0 ? LONG.length : at;
}

function folderOf(path: string): string {
  return path.split("/")[1] ?? "";
}

function canRunInChromium(path: string): boolean {
  return !NOT_IN_CHROMIUM.includes(path) && !NOT_IN_A_PAGE.test(readFileSync(join(ROOT, path), "utf8"));
}

function testCommand(runtime: Runtime, files: readonly string[]): string[] {
  const [program] = runtime.command as [string];
  switch (runtime.name) {
    case "deno":
      return [program, "test", "-A", "--no-check", "--quiet", ...files];
    case "bun":
      return [program, "test", "--timeout", "600000", ...files.map((file) => `./${file}`)];
    default: {
      const paths = runtime.readsTypeScript
        ? files
        : files.map((file) => file.replace(/^tests\//, "build/tests/").replace(/\.ts$/, ".js"));
      return [program, "--test", "--test-concurrency=1", "--test-reporter=spec", ...paths];
    }
  }
}

/** Numbers of the runner's own summary. */
function readCounts(runtime: RuntimeName, output: string): Counts {
  const last = (pattern: RegExp): number => Number([...output.matchAll(pattern)].at(-1)?.[1] ?? 0);
  if (runtime === "deno" || runtime === "workerd" || runtime.startsWith("page-")) {
    return {
      passed: last(/(\d+) passed(?: \(\d+ steps?\))? \| \d+ failed/g),
      failed: last(/\d+ passed(?: \(\d+ steps?\))? \| (\d+) failed/g),
      skipped: last(/\| (\d+) ignored/g),
    };
  }
  if (runtime === "bun") {
    return {
      passed: last(/^ (\d+) pass$/gm),
      failed: last(/^ (\d+) fail$/gm),
      skipped: last(/^ (\d+) skip$/gm),
    };
  }
  return {
    passed: last(/^ℹ pass (\d+)$/gm),
    failed: last(/^ℹ fail (\d+)$/gm) + last(/^ℹ cancelled (\d+)$/gm),
    skipped: last(/^ℹ skipped (\d+)$/gm),
  };
}

/** Runs one job to its end; what it printed is shown if anything in it failed. */
function runJob(job: Job): Promise<Counts> {
  const started = performance.now();
  return new Promise((resolve) => {
    const [program, ...args] = job.command as [string, ...string[]];
    const child = spawn(program, args, {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...job.env, NO_COLOR: "1", RSPARSE_DENO: process.execPath },
    });
    const chunks: Uint8Array[] = [];
    child.stdout.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    child.stderr.on("data", (chunk: Uint8Array) => chunks.push(chunk));
    const timer = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
    const finish = (status: string): void => {
      clearTimeout(timer);
      const output = new TextDecoder().decode(Buffer.concat(chunks));
      const counts = readCounts(job.runtime, output);
      // A crash counts as one failed test where the runner did not live to count.
      if (status !== "exit status 0" && counts.failed === 0) counts.failed = 1;
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      if (counts.failed > 0) console.log(`\n${job.runtime}: ${job.what}: ${status}\n${output}`);
      console.log(`${job.runtime.padEnd(14)}${job.what.padEnd(36)} ${describe(counts)}, ${seconds} s`);
      resolve(counts);
    };
    child.on("error", (error) => finish(`cannot start ${program}: ${error.message}`));
    child.on("close", (code, signal) => finish(signal ? `ended by ${signal}` : `exit status ${code}`));
  });
}

function describe({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}

/** Files with an example in a docstring; the others would only cost `deno test --doc` time. */
function filesWithExamples(): string[] {
  return readdirSync(join(ROOT, "src"), { recursive: true, encoding: "utf8" })
    .map((name) => `src/${name}`)
    .filter((path) => path.endsWith(".ts") && /^ \* ```ts/m.test(readFileSync(join(ROOT, path), "utf8")));
}

function pageName(browser: BrowserName): `page-${BrowserName}` {
  return `page-${browser}`;
}

/** A browser and the threads of its model are a machine's work: such a job is a heavy one. */
function pageJob(browser: BrowserName, file: string): Job {
  return {
    runtime: pageName(browser),
    what: file,
    command: [process.execPath, "test", "-A", "--no-check", "--quiet", file],
    env: { RSPARSE_PAGE_BROWSER: browser },
  };
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: { runtime: { type: "string" } },
    allowPositionals: true,
  });
  const filter = positionals[0] ?? "";
  await prepare();
  installRuntimes();
  await bundleIfOld();
  const { pulledModel } = await import("../tests/support/models.ts");
  await pulledModel();

  const found = runtimes(), hasWorkerd = findWorkerd() !== null, mustHaveAll = Boolean(process.env["CI"]);
  const missing = RUNTIMES.filter((name) =>
    name === "workerd" ? !hasWorkerd : FROM_NPM.test(name) && !found.some((runtime) => runtime.name === name)
  );
  // what is not to be had counts as failed where a machine decides what lands
  const names = RUNTIMES.filter((name) => mustHaveAll || !missing.includes(name));
  const chosen = names.filter((name) => values.runtime === undefined || name === values.runtime);
  if (chosen.length === 0) {
    console.error(`Cannot test on ${values.runtime}: no such runtime, there are ${names.join(", ")}`);
    return 2;
  }
  if (values.runtime === undefined) {
    for (const name of missing) {
      console.log(`${name}: not to be had on this platform${mustHaveAll ? "" : ", not tested"}`);
    }
  }
  // also where only Deno is tested: its parity test runs a page
  const chromium = await installChromium();
  if (typeof chromium !== "string") console.log(`testing in ${chromium.version}`);
  else console.log(`chromium: not to be had${mustHaveAll ? "" : ", not tested"}: ${chromium}`);

  const firefox = chosen.includes("page-firefox") ? installFirefox() : "not asked for";
  if (typeof firefox !== "string") console.log(`testing in ${firefox.version}`);
  else if (chosen.includes("page-firefox")) {
    console.log(`firefox: not to be had${mustHaveAll ? "" : ", not tested"}: ${firefox}`);
  }

  const redis = installRedis();
  if (typeof redis === "string") console.log(`redis: not to be had, tests of the queue will fail: ${redis}`);

  const all = filesUnderTests("_test.ts").filter((path) => path.includes(filter));
  const inWorkerd = all.filter((path) => WORKERD.test(path)), inDeno = all.filter((path) => DENO.test(path));
  const pageFiles = all.filter((path) => PAGE.test(path));
  const files = all.filter((path) => ![WORKERD, DENO, PAGE].some((pattern) => pattern.test(path)));
  const filesOf = (name: RuntimeName): readonly string[] =>
    name === "workerd" ? inWorkerd : name === "deno" ? [...files, ...inDeno] : files;
  const jobs: Job[] = [], alone: Job[] = [];
  if (files.some((path) => path.startsWith("tests/e2e/serve"))) {
    const reason = installOpenai();
    if (reason !== null) {
      console.log(`Python's openai: not to be had${mustHaveAll ? "" : ", not tested"}: ${reason}`);
    }
  }
  for (const runtime of found.filter(({ name }) => chosen.includes(name))) {
    jobs.push(...jobsOf(runtime.name, filesOf(runtime.name), (some) => testCommand(runtime, some)));
    if (runtime.name === "deno") {
      const examples = filesWithExamples().filter((path) => path.includes(filter));
      const command = [...runtime.command.slice(0, 1), "test", "-A", "--quiet", "--doc", ...examples];
      if (examples.length > 0) jobs.push({ runtime: "deno", what: "examples in docstrings", command });
    }
  }
  if (chosen.includes("workerd") && hasWorkerd && inWorkerd.length > 0) {
    const [deno] = found.find(({ name }) => name === "deno")!.command as [string];
    jobs.push(
      ...jobsOf("workerd", inWorkerd, (some) => [deno, "test", "-A", "--no-check", "--quiet", ...some]),
    );
  }
  const totals = new Map<RuntimeName, Counts>(), none = { passed: 0, failed: 0, skipped: 0 };
  for (const name of chosen) {
    if (name === "chromium" || name.startsWith("page-")) continue;
    if (filesOf(name).length > 0 || all.length === 0) totals.set(name, { ...none });
  }
  if (chosen.includes("chromium")) {
    const inPage = files.filter(canRunInChromium);
    const command = [process.execPath, "run", "-A", "--no-check", "tests/support/chromium_tests.ts"];
    if (typeof chromium !== "string") {
      jobs.push(...jobsOf("chromium", inPage, (some) => [...command, ...some]));
    }
    if (inPage.length > 0 && (typeof chromium !== "string" || mustHaveAll)) {
      totals.set("chromium", { ...none });
    }
  }
  for (const browser of BROWSERS) {
    const name = pageName(browser), isHere = typeof (browser === "firefox" ? firefox : chromium) !== "string";
    if (!chosen.includes(name) || pageFiles.length === 0) continue;
    if (isHere || mustHaveAll) totals.set(name, { ...none });
    // a browser and the threads of its model are a machine's work: nothing runs beside them
    if (isHere) alone.push(...pageFiles.map((file) => pageJob(browser, file)));
  }
  jobs.sort((a, b) => turnOf(a) - turnOf(b));
  const work = async (jobs: Job[]): Promise<void> => {
    for (let job = jobs.shift(); job; job = jobs.shift()) {
      let counts = await runJob(job);
      if (counts.failed > 0 && job.runtime === "page-firefox") {
        // what is known of it is in docs/browser.md; what failed is shown above, whatever comes now
        console.log(`page-firefox  ${job.what}: once more, since Firefox hangs in one load of fifty`);
        counts = await runJob(job);
      }
      const total = totals.get(job.runtime)!;
      total.passed += counts.passed;
      total.failed += counts.failed;
      total.skipped += counts.skipped;
    }
  };
  const atOnce = Math.max(1, Math.min(availableParallelism(), Math.floor(freemem() / JOB_BYTES), 4));
  await Promise.all(Array.from({ length: atOnce }, () => work(jobs)));
  await work(alone);

  const sum: Counts = { passed: 0, failed: 0, skipped: 0 };
  console.log("");
  for (const [name, counts] of totals) {
    if (counts.passed + counts.failed === 0) {
      console.log(`${name}: ran no test`);
      counts.failed = 1;
    }
    console.log(`${name}: ${describe(counts)}`);
    sum.passed += counts.passed;
    sum.failed += counts.failed;
    sum.skipped += counts.skipped;
  }
  console.log(describe(sum));
  return sum.failed > 0 ? 1 : 0;
}

process.exit(await main());
