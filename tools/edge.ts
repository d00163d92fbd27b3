/**
 * `deno task edge`: bundles the edge examples, runs each as its platform would, and writes the table of `docs/edge.md`. Deno runs those of Deno Deploy and Supabase, whose runtimes
 * are made of it; workerd runs Cloudflare's. Run it on a quiet machine.
 */
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { gzipSync } from "node:zlib";
import {
  ask,
  type BundledEdge,
  bundleEdge,
  type Edge,
  EDGES,
  readStream,
  startEdge,
} from "../tests/support/edge.ts";
import { prepare, ROOT } from "./prepare.ts";
import { installRuntimes } from "./runtimes.ts";

const NAMES: { readonly [edge in Edge]: string } = {
  deno: "Deno Deploy",
  workers: "Cloudflare Workers",
  supabase: "Supabase",
};
/** What the platform gives: MB of memory, and seconds of processor time a request; null where none is named. */
const LIMITS: { readonly [edge in Edge]: { readonly memory: number; readonly cpu: number | null } } = {
  deno: { memory: 512, cpu: null },
  workers: { memory: 128, cpu: 30 },
  supabase: { memory: 256, cpu: 2 },
};
/** Processes of each example that are started; the median of what they took counts. */
const RUNS = 9;
/** Tokens that speed is taken from, at 50 %. */
const TOKENS = 200;
const TICKS = 100; // of /proc: a second's

/** Figures of one process. */
interface Figures {
  /** Milliseconds from the start of the process, and from when it listens, to the first token of the first request. */
  readonly firstToken: number;
  readonly sinceListening: number;
  /** MB of the process, and how much of it is there without the model. */
  readonly memory: number;
  readonly bare: number;
  /** Milliseconds of processor time until the first token, and a token after it. */
  readonly cpuToFirst: number;
  readonly cpuPerToken: number;
}

async function measure(bundle: BundledEdge, bare: BundledEdge): Promise<Figures> {
  const empty = await startEdge(bare, process.execPath);
  await ask(empty.url, {});
  const bareMemory = memoryOf(empty.pid), bareCpu = cpuOf(empty.pid);
  await empty.stop();

  const running = await startEdge(bundle, process.execPath), path = bundle.edge === "supabase" ? "/tiny" : "";
  try {
    const url = `${running.url}${path}/v1/chat/completions`,
      messages = [{ role: "user", content: "Tell me a story." }];
    await listening(running.url);
    const listeningAt = performance.now();
    const first = await readStream(
      await ask(url, { messages, stream: true, max_tokens: 1, sparsity: 0.5, temperature: 0 }),
    );
    const at = first.parts[0]?.at ?? NaN, cpuToFirst = cpuOf(running.pid);
    const body = {
      messages,
      max_tokens: TOKENS,
      sparsity: 0.5,
      temperature: 1,
      seed: 1,
      logit_bias: undefined,
    };
    // the second one: code that runs often is compiled better meanwhile, which takes processor time too
    await (await ask(url, body)).json();
    const before = cpuOf(running.pid), { usage } = await (await ask(url, body)).json();
    return {
      firstToken: at - running.startedAt,
      sinceListening: at - listeningAt,
      memory: memoryOf(running.pid),
      bare: bareMemory,
      cpuToFirst: cpuToFirst - bareCpu,
      cpuPerToken: (cpuOf(running.pid) - before) / (usage.completion_tokens + usage.prompt_tokens),
    };
  } finally {
    await running.stop();
  }
}

/** Waits until a connection is taken; nothing is asked. */
async function listening(url: string): Promise<void> {
  const { hostname, port } = new URL(url);
  for (;;) {
    try {
      (await Deno.connect({ hostname, port: Number(port) })).close();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

/** MB that the process holds by itself. */
function memoryOf(pid: number): number {
  const text = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/RssAnon:\s+(\d+)/.exec(text)![1]) * 1024 / 1e6;
}

/** Milliseconds of processor time of all its threads. */
function cpuOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /s, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 1000 / TICKS;
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

async function row(edge: Edge): Promise<string> {
  const folder = join(ROOT, "build", "edge", edge);
  rmSync(folder, { recursive: true, force: true });
  const bundle = await bundleEdge(edge, folder), bare = await bareOf(edge, join(folder, "bare"));
  const read = (name: string): Uint8Array => readFileSync(join(folder, name));
  const kB = (name: string): number => statSync(join(folder, name)).size / 1000;
  const core = (gzipSync(read(bundle.code)).length + gzipSync(read(bundle.kernels)).length) / 1000;
  const whole = [bundle.code, bundle.kernels, bundle.model].map(read);
  const wholeZipped = whole.reduce((sum, bytes) => sum + gzipSync(bytes).length, 0) / 1e6;
  const runs: Figures[] = [];
  for (let i = 0; i < RUNS; i++) runs.push(await measure(bundle, bare));
  const of = (pick: (figures: Figures) => number): number => median(runs.map(pick));
  const { memory: limit, cpu } = LIMITS[edge],
    toFirst = of((f) => f.cpuToFirst),
    perToken = of((f) => f.cpuPerToken);
  const tokens = cpu === null ? "no limit" : `${Math.floor((1000 * cpu - toFirst) / perToken)} in ${cpu} s`;
  const memory = of((f) => f.memory), bareMemory = of((f) => f.bare);
  return `| ${NAMES[edge]} | ${(kB(bundle.code) + kB(bundle.kernels)).toFixed(0)} kB (${
    core.toFixed(0)
  } kB) | ${(whole.reduce((sum, bytes) => sum + bytes.length, 0) / 1e6).toFixed(1)} MB (${
    wholeZipped.toFixed(1)
  } MB) | ${of((f) => f.firstToken).toFixed(0)} ms | ${of((f) => f.sinceListening).toFixed(0)} ms | ${
    (memory - bareMemory).toFixed(0)
  } MB of ${limit} (process ${memory.toFixed(0)}) | ${toFirst.toFixed(0)} ms | ${
    perToken.toFixed(1)
  } ms | ${tokens} |`;
}

/** An example that answers without a model: what its runtime takes by itself. */
async function bareOf(edge: Edge, folder: string): Promise<BundledEdge> {
  const entry = join(folder, "..", "bare.ts"), answer = "() => new Response()";
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    entry,
    edge === "workers" ? `export default { fetch: ${answer} };` : `Deno.serve(${answer});`,
  );
  return await bundleEdge(edge, folder, entry);
}

if (import.meta.main) {
  if (process.platform !== "linux") {
    console.error("Cannot measure: memory and processor time are read from /proc, which Linux has");
    process.exit(1);
  }
  await prepare();
  installRuntimes();
  const rows: string[] = [];
  for (const edge of EDGES) {
    console.error(`measuring ${NAMES[edge]} …`);
    rows.push(await row(edge));
  }
  const table = [
    "| | code and kernels (gzip) | with the model (gzip) | start to first token | listening to first token | memory for the model | CPU to first token | CPU a token | tokens in the limit |",
    "|---|---|---|---|---|---|---|---|---|",
    ...rows,
  ].join("\n");
  const path = join(ROOT, "docs", "edge.md"), text = readFileSync(path, "utf8");
  const about = `Medians of ${RUNS} processes, ${cpus()[0]?.model.trim()}, ${
    new Date().toISOString().slice(0, 10)
  }.`;
  writeFileSync(
    path,
    text.replace(/<!-- table -->[\s\S]*<!-- end -->/, `<!-- table -->\n${table}\n\n${about}\n<!-- end -->`),
  );
  console.log(table);
}
