/**
 * `deno run -A bench/serve/main.ts [--seconds 300] [--clients 64] [-m MODEL | --shape tiny] [--runtime deno|node-20|node-24|bun]`: `rsparse serve` in a process of its
 * own under load (load.ts), with what came of it and its memory at the end. Exit status 1 if there was any error but 429, or memory grew by more than 5 % after the first third:
 * engines let their heaps grow for a minute and a half.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { syntheticModel } from "../../src/cli/bench/synthetic_model.ts";
import { startProgram } from "../../tests/support/process.ts";
import { cliCommand, runtimes } from "../../tests/support/runtimes.ts";
import { TINY } from "../shapes.ts";
import { growth, type LoadReport, runLoad } from "./load.ts";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "300" },
    clients: { type: "string", default: "64" },
    model: { type: "string", short: "m" },
    shape: { type: "string", default: "tiny" },
    runtime: { type: "string", default: "deno" },
  },
});
const seconds = Number(values.seconds), warmUp = Math.floor(seconds / 3);
const MAX_BODY = 200_000, KEY = "a-key-under-load", MOST_GROWTH = 0.05;
const folder = mkdtempSync(join(tmpdir(), "rsparse-load-"));

/** A file of random weights, which say something else to every prompt. */
async function randomModel(): Promise<string> {
  const path = join(folder, "tiny.gguf"),
    { files } = syntheticModel("tiny", TINY, "int8", TINY.numHiddenLayers);
  writeFileSync(path, new Uint8Array(await files[0]!.blob.arrayBuffer()));
  return path;
}

function line(report: LoadReport): string {
  const { right, slow, left, refused, busy, errors, tokens, firstToken, rss } = report;
  const at = (share: number): string =>
    (firstToken[Math.floor(share * (firstToken.length - 1))] ?? NaN).toFixed(2);
  return `${report.seconds.toFixed(0)} s: ${right} right (${slow} read slowly), ${left} left, refused ${
    JSON.stringify(refused)
  }, ` +
    `429 ${busy}, other errors ${errors.length}; ${
      (tokens / report.seconds).toFixed(0)
    } tokens/s read to the end, ` +
    `first token ${at(0.5)} s (median), ${at(0.95)} s (95 %); RSS ${
      ((rss.at(-1) ?? NaN) / 1e6).toFixed(0)
    } MB`;
}

const runtime = runtimes().find(({ name }) => name === values.runtime);
if (runtime === undefined) throw new Error(`Cannot run on ${values.runtime}: it is not there`);
writeFileSync(join(folder, "keys"), KEY);
const server = startProgram([
  ...cliCommand(runtime),
  "serve",
  ...[
    "-m",
    values.model ?? await randomModel(),
    "--port",
    "0",
    "--threads",
    "1",
    "--api-key-file",
    join(folder, "keys"),
  ],
  // fewer than there are clients, so that some are refused
  ...["--max-sequences", "24", "--max-queue", "12", "--max-body", String(MAX_BODY)],
]);
const [, url] = await server.says(/listening on (\S+)/);
await server.says(/ready: /);

const report = await runLoad({
  url: url!,
  key: KEY,
  clients: Number(values.clients),
  seconds,
  maxBody: MAX_BODY,
  onSecond(report) {
    if (Math.round(report.seconds) % 10 === 0) console.log(line(report));
  },
});
server.send("SIGTERM");
const code = await server.ended, grown = growth(report.rss, warmUp);
rmSync(folder, { recursive: true, force: true });
process.stderr.write(server.stderr());
console.log(`\n${line(report)}`);
for (const error of report.errors) console.log(`ERROR ${error}`);
const peak = Math.max(...report.rss.slice(warmUp)),
  MB = (bytes: number): string => (bytes / 1e6).toFixed(0);
console.log(
  `memory after the first third: ${(100 * grown).toFixed(1)} % more at the end, peak ${
    MB(peak)
  } MB; exit status ${code}`,
);
process.exit(report.errors.length === 0 && grown <= MOST_GROWTH && code === 0 ? 0 : 1);
