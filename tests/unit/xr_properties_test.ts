/** What holds for every run, whichever defects are on: 10,000 random scenarios, hardware and mixtures of switches. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type LogEntry,
  type Order,
  parseScenario,
  type Policy,
  readSwitches,
  type Scenario,
  simulate,
  type SimulationOptions,
  SWITCH_NAMES,
  type Switches,
  tableExecutor,
} from "../../src/xr/mod.ts";
import { Random } from "../support/kernels.ts";

interface RandomCase {
  readonly scenario: Scenario;
  readonly accelerators: number;
  readonly options: SimulationOptions;
  readonly log: readonly LogEntry[];
  readonly requests: ReturnType<typeof simulate>["requests"];
}

const RATES = [3, 10, 15, 24, 30, 45, 60, 90];
const NAMES = ["Zeta", "E1", "a_b", "alpha", "B", "b"];

function pick<T>(random: Random, list: readonly T[]): T {
  return list[random.below(list.length)]!;
}

/** The harness, the corrected mode, either with one switch changed, or any mixture. */
function randomSwitches(random: Random): Switches {
  const kind = random.below(5);
  if (kind === 0) return readSwitches("compat", []);
  if (kind === 1) return readSwitches("corrected", []);
  if (kind === 2) return readSwitches("compat", [`${pick(random, SWITCH_NAMES)}=off`]);
  if (kind === 3) return readSwitches("corrected", [`${pick(random, SWITCH_NAMES)}=on`]);
  return readSwitches("corrected", SWITCH_NAMES.map((name) => `${name}=${pick(random, ["on", "off"])}`));
}

function randomCase(random: Random): RandomCase {
  const switches = randomSwitches(random), fps = pick(random, RATES);
  // where frames are matched by number, models joined by an edge have one rate
  const isFree = switches.countDependency && switches.noCascade && switches.eventRandom;
  const models: { name: string; fps: number; probability: number; dependencies: string[] }[] = [];
  for (let i = 0, count = 1 + random.below(NAMES.length); i < count; ++i) {
    const dependencies = models.filter(() => random.below(2) === 0).map(({ name }) => name);
    models.push({
      name: NAMES[i]!,
      fps: isFree || random.below(4) === 0 ? pick(random, RATES) : fps,
      probability: pick(random, [1, 1, 0.75, 0.5, 0]),
      dependencies: isFree ? dependencies : [],
    });
    if (isFree) continue;
    const own = models[i]!;
    own.dependencies.push(
      ...dependencies.filter((name) => models.find((model) => model.name === name)!.fps === own.fps),
    );
  }
  const scenario = parseScenario({ models }), accelerators = 1 + random.below(4);
  const scale = pick(random, [1e5, 5e6, 2e7]);
  const costs = Array.from({ length: accelerators }, () =>
    models.map(() => ({
      cycles: random.below(2) === 0 ? Math.round(scale * 3 * random.uniform()) : 16005000,
      energyNJ: 1e9 * random.uniform(),
      layerEdp: random.uniform(),
    })));
  const options = {
    seed: random.below(1e6),
    durationMs: pick(random, [50, 200, 350]),
    maxJitterMs: pick(random, [0, 0.01, 5, 40]),
    order: pick<Order>(random, ["name", "edf", "slack"]),
    switches,
  };
  const executor = tableExecutor(costs, pick<Policy>(random, ["latency", "edp"]), switches.float32);
  return { scenario, accelerators, options, ...simulate(scenario, executor, options) };
}

/** Jobs that retire early may be followed 0.01 ms before their end; single precision has a step of 3e-5 at 350 ms. */
function toleranceOf({ retireMargin, float32 }: Switches): number {
  return (retireMargin ? 0.01 : 0) + (float32 ? 1e-4 : 0);
}

/** Every frame once: executed, dropped, or left over where the run stops early; only what was asked for. */
function assertConserved(
  { scenario, log, requests, options: { switches, durationMs } }: RandomCase,
  what: string,
): void {
  const asked = new Map(requests.map((request) => [`${request.model} ${request.frame}`, request]));
  assert.equal(asked.size, requests.length, `${what}: no frame enters twice`);
  const logged = new Set(log.map(({ model, frame }) => `${model} ${frame}`));
  assert.equal(logged.size, log.length, `${what}: no frame has two lines`);
  for (const { model, frame, injectionMs, deadlineMs, dropped, reason } of log) {
    const request = asked.get(`${model} ${frame}`);
    assert.ok(request?.arrivalMs === injectionMs && request.deadlineMs === deadlineMs, what);
    assert.equal(reason !== "", dropped, what);
    if (reason === "upstream") assert.ok(!switches.noCascade, what);
  }
  if (!switches.stopEarly) assert.equal(log.length, requests.length, `${what}: all are accounted for`);
  for (const { name, fps, dependencies } of scenario.models) {
    const own = requests.filter(({ model }) => model === name);
    if (switches.injectAtEvents) {
      assert.equal(
        new Set(own.map(({ arrivalMs }) => arrivalMs)).size,
        own.length,
        `${what}: one at an event`,
      );
    }
    // what was drawn beforehand is asked for where all that it needs is
    if (!switches.eventRandom && switches.stopEarly === false) {
      for (const upstream of dependencies) {
        for (const { frame } of own) {
          assert.ok(asked.has(`${upstream} ${frame}`), `${what}: ${name} ${frame}`);
        }
      }
    }
    const period = switches.floorPeriods ? Math.floor(1000 / fps) : 1000 / fps;
    assert.ok(own.length <= durationMs / period, what);
  }
}

/** No two jobs on one accelerator, none before its frame has come, none begun after its deadline. */
function assertApart({ log, accelerators, options: { switches } }: RandomCase, what: string): void {
  const bound = toleranceOf(switches), ends = Array.from({ length: accelerators }, () => -Infinity);
  const jobs = log.filter(({ dropped }) => !dropped).sort((a, b) => a.dispatchMs - b.dispatchMs);
  for (const { accelerator, dispatchMs, completionMs, injectionMs, deadlineMs } of jobs) {
    if (!(dispatchMs >= ends[accelerator]! - bound)) {
      assert.fail(`${what}: ${dispatchMs} before ${ends[accelerator]}`);
    }
    assert.ok(dispatchMs >= injectionMs && completionMs >= dispatchMs, what);
    assert.ok(dispatchMs <= deadlineMs, `${what}: what is late is dropped, not begun`);
    ends[accelerator] = completionMs;
  }
  for (const { reason, completionMs, deadlineMs } of log) {
    // at the end of a run what waits for nothing is dropped at its deadline
    if (reason === "late") assert.ok(completionMs >= deadlineMs, what);
  }
}

/** No job before what it needs. Returns how many edges were looked at. */
function assertOrdered({ scenario, log, options: { switches } }: RandomCase, what: string): number {
  const bound = toleranceOf(switches), jobs = log.filter(({ dropped }) => !dropped);
  let edges = 0;
  for (const { name, dependencies } of scenario.models) {
    for (const upstream of dependencies) {
      const before = jobs.filter(({ model }) => model === upstream);
      for (const { frame, dispatchMs } of jobs.filter(({ model }) => model === name)) {
        edges++;
        if (switches.countDependency) {
          const done = before.filter(({ completionMs }) => completionMs <= dispatchMs + bound).length;
          assert.ok(done > frame, `${what}: ${done} done before frame ${frame}`);
        } else {
          const own = before.find((job) => job.frame === frame);
          assert.ok(own !== undefined && own.completionMs <= dispatchMs + bound, `${what}: frame ${frame}`);
        }
      }
    }
  }
  return edges;
}

test("simulate: frames are conserved, jobs are apart, and none is before what it needs, in 10,000 random cases", () => {
  const random = new Random(1);
  let frames = 0, drops = 0, edges = 0;
  for (let i = 0; i < 10_000; ++i) {
    const found = randomCase(random);
    assertConserved(found, `case ${i}`);
    assertApart(found, `case ${i}`);
    edges += assertOrdered(found, `case ${i}`);
    frames += found.log.length;
    drops += found.log.filter(({ dropped }) => dropped).length;
  }
  // the cases are not empty, nor all of one kind
  assert.ok(
    frames > 100_000 && drops > 10_000 && drops < frames / 2 && edges > 10_000,
    `${frames} ${drops} ${edges}`,
  );
});

test("simulate: the same case gives the same log; without eventRandom the requests are the same on all hardware", () => {
  for (let i = 0; i < 1000; ++i) {
    const [first, again] = [randomCase(new Random(i)), randomCase(new Random(i))];
    assert.deepEqual(first.log, again.log);
    const switches = {
      ...first.options.switches,
      eventRandom: false,
      injectAtEvents: false,
      stopEarly: false,
    };
    const requests = [1e5, 3e7].map((cycles) => {
      const costs = [first.scenario.models.map(() => ({ cycles, energyNJ: 1 }))];
      const models = first.scenario.models.map((model) => ({ ...model, dependencies: [] }));
      const executor = tableExecutor(costs, "latency", switches.float32);
      return simulate({ ...first.scenario, models }, executor, { ...first.options, switches }).requests;
    });
    assert.deepEqual(requests[0], requests[1], `case ${i}`);
  }
});
