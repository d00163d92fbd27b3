/** Real runs on threads of this runtime and of a page, and `rsparse xr run --mode real`. What is asserted holds however busy the machine is. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { parseScenario, parseTrace, type RunResult, type Scenario, scoreRecorded } from "../../src/xr/mod.ts";
import { parseBinding, RealMachine, type RealRun, RealRunError, runReal } from "../../src/xr/real/mod.ts";
import { runInChromium, skipWithoutChromium } from "../support/chromium.ts";
import { failure, json, rsparse, stories } from "../support/cli.ts";
import { thisRuntime } from "../support/runtimes.ts";
import { rootPath, skipWithout } from "../support/shared.ts";

const folder = mkdtempSync(join(tmpdir(), "rsparse-xr-real-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const path = (name: string): string => join(folder, name);

const SCENARIO = {
  id: "short",
  durationMs: 300,
  models: [
    { name: "up", fps: 50, binding: "declared:idle:3" },
    { name: "down", fps: 50, probability: 0.6, dependencies: ["up"], binding: "declared:busy:1" },
    { name: "null", fps: 40, binding: "null" },
    {
      name: "shape",
      fps: 20,
      binding: "shape:int8",
      layers: [{ type: "CONV", K: 16, C: 8, Y: 16, X: 16, R: 3, S: 3, stride: 2 }],
    },
  ],
};
const scenario: Scenario = parseScenario(SCENARIO);

/** Every frame has one line; what ran did so in order, apart from other jobs of its accelerator, after what it needs. */
function assertSound({ log, requests, result }: Pick<RealRun, "log" | "requests" | "result">): void {
  const key = ({ model, frame }: { model: string; frame: number }): string => `${model} ${frame}`;
  assert.deepEqual(log.map(key).sort(), requests.map(key).sort());
  const real = result.real!, executed = log.filter(({ dropped }) => !dropped);
  assert.equal(real.jobs.length, executed.length);
  assert.equal(real.accelerators.reduce((sum, { jobs }) => sum + jobs, 0), executed.length);
  for (const [model, frame, , arrival, injection, dispatch, start, end, noticed] of real.jobs) {
    const times = [arrival, injection, dispatch, start, end];
    assert.deepEqual(times, [...times].sort((a, b) => a - b), `${model} ${frame}`);
    assert.ok(Number.isFinite(noticed) && noticed >= dispatch);
  }
  for (let accelerator = 0; accelerator < real.accelerators.length; accelerator++) {
    const own = executed.filter((entry) => entry.accelerator === accelerator)
      .sort((a, b) => a.dispatchMs - b.dispatchMs);
    own.forEach(({ dispatchMs }, i) => assert.ok(i === 0 || dispatchMs >= own[i - 1]!.dispatchMs));
  }
  const done = new Map(executed.map((entry) => [key(entry), entry]));
  for (const { model, frame, dispatchMs } of executed) {
    if (model !== "down") continue;
    assert.ok(done.get(`up ${frame}`)!.completionMs <= dispatchMs + real.clockErrorMs + 0.1);
  }
  assert.ok(executed.length > 0);
  const { perSecond, share, longestMs } = real.clockGaps;
  assert.ok(
    share >= 0 && share <= 1 && (perSecond > 0) === (share > 0) && (perSecond > 0) === (longestMs > 0.1),
  );
}

/** All of a result but the numbers' machine, as bytes. */
function bytesOf(result: RunResult): string {
  return JSON.stringify(result);
}

test("runReal: frames are conserved, jobs in order, and the trace scores to the same bytes", async () => {
  const run = await runReal(scenario, { accelerators: 2 }), { result } = run;
  assertSound(run);
  assert.deepEqual(result.setting, {
    up: "declared:idle:3",
    down: "declared:busy:1",
    null: "null",
    shape: "shape:int8",
  });
  assert.deepEqual([result.mode, result.real!.noSharedMemory, result.real!.accelerators.length], [
    "real",
    null,
    2,
  ]);
  assert.equal(result.real!.tier, "depthwise");
  assert.equal(result.real!.bindings["shape"]!.macs, 8 * 8 * 16 * 72);
  assert.ok(result.replayDifferenceMs! >= 0);
  assert.ok(result.real!.scheduleErrorMs!.p50 >= 0);
  const lasted = result.real!.jobs.filter(([model]) => model === "up").map(([, , , , , , start, end]) =>
    end - start
  );
  assert.ok(lasted.every((ms) => ms > 2.99), "a declared job lasts as long as it is declared");
  const trace = parseTrace(JSON.parse(JSON.stringify(run.trace)));
  const again = scoreRecorded({ ...trace, recorded: trace.recorded! });
  assert.equal(bytesOf(again.result), bytesOf(JSON.parse(bytesOf(result))));
});

test("RealMachine: run after run on the same accelerators, at other rates, in other orders", async () => {
  const machine = await RealMachine.open(scenario, { order: "edf", seed: 4 });
  try {
    const [slow, fast] = [await machine.run({ rate: 0.5 }), await machine.run({ rate: 2, durationMs: 75 })];
    assertSound(slow);
    assertSound(fast);
    assert.deepEqual([slow.result.real!.rate, fast.result.real!.rate], [0.5, 2]);
    assert.equal(slow.requests.filter(({ model }) => model === "up").length, 7);
  } finally {
    await machine.close();
  }
});

test("without shared memory: one accelerator, driven by messages, and the result says so", async () => {
  const run = await runReal(scenario, { accelerators: 3, sharedMemory: false });
  assertSound(run);
  assert.deepEqual([run.result.real!.accelerators.length, run.result.utilisation.length], [1, 1]);
  assert.match(run.result.real!.noSharedMemory!, /turned off/);
});

for (const sharedMemory of [true, false]) {
  test(
    `an accelerator that is killed is reported${
      sharedMemory ? ", and the run goes on" : "; the last one ends the run with what was recorded"
    }`,
    async () => {
      const machine = await RealMachine.open(scenario, { accelerators: 2, sharedMemory });
      try {
        void machine.kill(0, 5);
        const running = machine.run({ durationMs: 900 });
        const run = sharedMemory
          ? await running
          : await running.then(() => assert.fail("it went on"), (error) => (error as RealRunError).run);
        assertSound(run);
        const [lost] = run.result.real!.accelerators;
        assert.ok(Number.isFinite(lost!.lost!.atMs) && lost!.lost!.reason.length > 0);
        const after = run.log.filter(({ dispatchMs, dropped }) => !dropped && dispatchMs > lost!.lost!.atMs);
        assert.ok(after.every(({ accelerator }) => accelerator === 1));
        assert.equal(after.length > 0, sharedMemory);
        assert.equal(run.result.replayDifferenceMs, null);
      } finally {
        await machine.close();
      }
    },
  );
}

test("with all accelerators killed: an error that keeps what was recorded", async () => {
  const machine = await RealMachine.open(scenario, { accelerators: 2 });
  try {
    void Promise.all([machine.kill(0, 5), machine.kill(1, 5)]);
    await assert.rejects(machine.run({ durationMs: 900 }), (error: RealRunError) => {
      assert.equal(error.name, "RealRunError");
      assert.match(
        error.message,
        /every accelerator was lost: 0: .+; 1: .+what was recorded until then is kept/,
      );
      assertSound(error.run);
      assert.ok(error.run.log.some(({ reason }) => reason === "lost"));
      return true;
    });
    await assert.rejects(machine.run(), /accelerator 0 is no more/);
  } finally {
    await machine.close();
  }
});

test("a model that can't be loaded is an error before the run", async () => {
  const bindings = [["null", parseBinding(`real:${path("missing.gguf")}`)]] as const;
  await assert.rejects(runReal(scenario, { bindings }), /Cannot start accelerator 0: .*missing\.gguf/s);
});

test("a signal ends a run at once, with its reason", async () => {
  const stop = new AbortController(), reason = new Error("enough");
  setTimeout(() => stop.abort(reason), 300);
  const began = performance.now();
  await assert.rejects(runReal(scenario, { durationMs: 60_000, signal: stop.signal }), reason);
  assert.ok(performance.now() - began < 30_000);
});

test(
  "a language model as frames and as replies",
  { skip: skipWithout("data/models/stories260K") },
  async () => {
    const talk = parseScenario({
      durationMs: 400,
      models: [
        { name: "words", fps: 20, binding: "real:tokens=2" },
        { name: "LM", fps: 5, reply: { prompt: 8, tokens: 5, ttftMs: 100, tokenRate: 50 } },
      ],
    });
    const run = await runReal(talk, { model: stories(), accelerators: 2 }), { log, result } = run;
    assert.equal(log.filter(({ model }) => model === "words").length, 8);
    const tokens = log.filter(({ model }) => model === "LM");
    assert.deepEqual(tokens.map(({ frame }) => frame), Array.from({ length: 10 }, (_, i) => i));
    for (const reply of [0, 1]) {
      const homes = new Set(
        tokens.slice(5 * reply, 5 * reply + 5).filter(({ dropped }) => !dropped).map(({ accelerator }) =>
          accelerator
        ),
      );
      assert.ok(homes.size <= 1, "a reply stays where its cache is");
    }
    assert.equal(result.models["LM"]!.nRequired, 10);
    const trace = parseTrace(JSON.parse(JSON.stringify(run.trace)));
    const again = scoreRecorded({ ...trace, recorded: trace.recorded! });
    assert.equal(bytesOf(again.result), bytesOf(JSON.parse(bytesOf(result))));
  },
);

const RUN = ["xr", "run", "--mode", "real"];
function keep(name: string, value: unknown): string {
  writeFileSync(path(name), JSON.stringify(value));
  return path(name);
}

test("xr run --mode real: a document, a trace, and the same document from --replay", async () => {
  const file = keep("short.json", SCENARIO), trace = path("trace.json");
  const args = [
    ...RUN,
    "--scenario",
    file,
    "--accelerators",
    "2",
    "--bind",
    "up=declared:busy:2",
    "--trace",
    trace,
  ];
  const found = await json<RunResult>(args);
  assert.deepEqual((found.setting as Record<string, string>)["up"], "declared:busy:2");
  const again = await json<RunResult>(["xr", "run", "--replay", trace]);
  assert.equal(bytesOf(again), bytesOf(found));
  const simulated = await json<RunResult>(["xr", "run", "--replay", trace, "--mode", "corrected"]);
  assert.deepEqual([simulated.mode, simulated.log.length], ["corrected", found.log.length]);
  const { code, stdout } = await rsparse(["xr", "run", "--replay", trace]);
  assert.equal(code, 0);
  assert.match(stdout, /tier depthwise, rate 1; energy not measured[\s\S]*schedule kept to p50/);
  const cut = JSON.parse(readFileSync(trace, "utf8"));
  cut.real.log.pop();
  await failure(1, /trace.*real\.log: frame \d+ of \w+ is missing/, [
    "xr",
    "run",
    "--replay",
    keep("cut.json", cut),
  ]);
});

test("xr run --mode real --max-rate: what was tried, and the run at what was found", async () => {
  const file = keep("light.json", {
    durationMs: 100,
    models: [{ name: "a", fps: 20, binding: "declared:idle:20" }],
  });
  const found = await json<
    RunResult & { maxRate: { rate: number; probes: { rate: number; hitRate: number }[] } }
  >([
    ...RUN,
    "--scenario",
    file,
    "--max-rate",
    "--target",
    "0.5",
  ]);
  assert.ok(
    found.maxRate.rate > 0 && found.maxRate.rate < 5,
    "frames of 20 ms can't come 100 times a second in time",
  );
  assert.equal(found.real!.rate, found.maxRate.rate);
  assert.ok(found.maxRate.probes.length >= 3);
});

test("xr run --mode real: what can't be is named", async () => {
  const file = keep("named.json", SCENARIO), run = [...RUN, "--scenario", file];
  await failure(2, /Cannot take --bind up=fast: "fast" found, null, declared/, [...run, "--bind", "up=fast"]);
  await failure(2, /Cannot take --bind up: MODEL=KIND wanted/, [...run, "--bind", "up"]);
  await failure(2, /Cannot take --tier scaled/, [...run, "--tier", "scaled"]);
  await failure(1, /"XX" found, one of up, down, null, shape, its task, or \* wanted/, [
    ...run,
    "--bind",
    "XX=null",
  ]);
  await failure(1, /models\[0\]: up is declared and has no length/, [...run, "--bind", "up=declared"]);
  await failure(2, /Cannot take --bind: only --mode real has it/, [
    "xr",
    "run",
    "--scenario",
    file,
    "--bind",
    "a=null",
  ]);
  await failure(2, /Cannot take --mode real with --suite/, [...RUN, "--suite"]);
  await failure(2, /Cannot take --rate with --max-rate/, [...run, "--rate", "2", "--max-rate"]);
});

test("xr run --mode real: Ctrl-C ends it, with status 130", {
  skip: process.platform === "win32" ? "no SIGINT" : false,
}, async () => {
  const file = keep("long.json", SCENARIO);
  const { code, stdout } = await rsparse([...RUN, "--scenario", file, "--duration", "60000"], {
    onStart: (interrupt) => setTimeout(interrupt, 4000),
  });
  assert.deepEqual([code, stdout], [130, ""]);
});

const DIST = "dist/browser/xr_real.js";
const PAGE = `
export async function main({ folder, scenario }) {
  const { parseScenario } = await import(folder + "/xr.js");
  const { RealMachine, RealRunError } = await import(folder + "/xr_real.js");
  const machine = await RealMachine.open(parseScenario(scenario), {
    accelerators: 2, workerUrl: new URL(folder + "/xr_worker.js", location.href).href, k: 1,
  });
  const whole = await machine.run();
  machine.kill(0, 5);
  const cut = await machine.run({ durationMs: 900 }).catch((error) => {
    if (error instanceof RealRunError || error.name === "RealRunError") return error.run;
    throw error;
  });
  await machine.close();
  return [whole, cut].map(({ log, requests, result, trace }) => ({ log, requests, result, trace }));
}
`;
const skipPage = skipWithoutChromium() ||
  (thisRuntime().name === "deno" ? false : "Deno's run drives the page") ||
  (existsSync(rootPath(DIST)) ? false : "there is no dist/browser: deno task build");

for (const isolated of [true, false]) {
  test(
    `in a page that is ${isolated ? "" : "not "}isolated, on its own thread: ${
      isolated ? "two accelerators" : "one, by messages"
    }; one that is killed`,
    { skip: skipPage },
    async () => {
      const running = runInChromium<RealRun[]>({ source: PAGE }, {
        isolated,
        thread: "page",
        roots: [rootPath("dist/browser")],
        argument: { folder: `/fs${rootPath("dist/browser")}`, scenario: SCENARIO },
      });
      const [whole, cut] = await running;
      for (const run of [whole!, cut!]) assertSound(run);
      const accelerators = whole!.result.real!.accelerators;
      assert.deepEqual(accelerators.map(({ lost }) => lost), isolated ? [null, null] : [null]);
      assert.equal(whole!.result.real!.noSharedMemory === null, isolated);
      assert.match(cut!.result.real!.accelerators[0]!.lost!.reason, /terminated/);
      const trace = parseTrace(whole!.trace), again = scoreRecorded({ ...trace, recorded: trace.recorded! });
      assert.deepEqual(again.result.models, whole!.result.models);
    },
  );
}
