/** What real runs are made of, without threads: the ring, bindings, tiers, clocks, products, and the loader against the simulator. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../../src/runtime/random.ts";
import {
  builtinModels,
  builtinScenario,
  countLayers,
  drawFrames,
  type Frame,
  type LogEntry,
  parseScenario,
  type Scenario,
  simulate,
  tableExecutor,
} from "../../src/xr/mod.ts";
import { bindingText, parseBinding, parseTier, tierText } from "../../src/xr/real/mod.ts";
import { Board, COMPARE } from "../../src/xr/real/board.ts";
import { checkStep, gapsOf, offsetOf, steepest, stepOf } from "../../src/xr/real/clock.ts";
import { drive } from "../../src/xr/real/drive.ts";
import { type Ended, Loader, type RealDial } from "../../src/xr/real/loader.ts";
import { bindModels, declaredMs, worksOf } from "../../src/xr/real/plan.ts";
import { findRate } from "../../src/xr/real/rate.ts";
import { Ring } from "../../src/xr/real/ring.ts";
import type { RealRun } from "../../src/xr/real/run.ts";
import { ShapeModel } from "../../src/xr/real/shape.ts";
import { macsOf, type Product, productsOf } from "../../src/xr/real/tiers.ts";
import { switchesOfMode } from "../../src/xr/switches.ts";

test("Ring: entries in their order, none where it is empty, no room where it is full, over many turns", () => {
  const offset = 128, ring = new Ring(new ArrayBuffer(offset + Ring.bytes(3)), offset, 3);
  assert.equal(ring.pop(), null);
  let put = 0, taken = 0;
  for (let turn = 0; turn < 20; turn++) {
    while (ring.push([put, -put, put / 2, NaN])) put++;
    assert.equal(put - taken, 3);
    for (let i = 0; i <= turn % 3; i++, taken++) {
      assert.deepEqual(ring.pop(), [taken, -taken, taken / 2, NaN]);
    }
  }
  while (ring.pop() !== null) taken++;
  assert.equal(taken, put);
});

test("Ring: counts that run over 2 ** 31 and 2 ** 32 do no harm", () => {
  for (const start of [2 ** 31 - 2, -2]) {
    const buffer = new ArrayBuffer(Ring.bytes(4)), ends = new Int32Array(buffer, 0, 32);
    ends[0] = ends[16] = start;
    const ring = new Ring(buffer, 0, 4);
    for (let i = 0; i < 12; i++) {
      assert.ok(ring.push([i, 0, 0, 0]));
      assert.ok(ring.push([i + 0.5, 0, 0, 0]));
      assert.deepEqual([ring.pop()?.[0], ring.pop()?.[0], ring.pop()], [i, i + 0.5, null]);
    }
  }
});

test("Board: the first reason for a loss counts, and only of that accelerator", () => {
  const board = new Board(new ArrayBuffer(8192) as unknown as SharedArrayBuffer, 2);
  const before = board.changes;
  board.lose(1, "it burns ✗");
  board.lose(1, "no, it drowned");
  assert.deepEqual([board.lossOf(0), board.lossOf(1)], [null, "it burns ✗"]);
  assert.notEqual(board.changes, before);
  board.lose(0, "x".repeat(5000));
  assert.match(board.lossOf(0)!, /^x{400,504}$/);
});

test("parseBinding: every form, and back", () => {
  for (
    const text of [
      "null",
      "declared:idle",
      "declared:busy:2.5",
      "declared:idle:0",
      "shape:f32",
      "shape:int8:4",
      "real:tokens=1",
      "real:tokens=32:sparsity=0.5:hf:owner/name/file.gguf@main",
    ]
  ) assert.equal(bindingText(parseBinding(text)), text);
  assert.deepEqual(parseBinding("declared"), { kind: "declared", how: "idle", latencyMs: null });
  assert.deepEqual(parseBinding("declared:3"), { kind: "declared", how: "idle", latencyMs: 3 });
  assert.deepEqual(parseBinding("shape:2"), { kind: "shape", dtype: "f32", divisor: 2 });
  assert.deepEqual(parseBinding("real:C:\\m.gguf"), {
    kind: "real",
    model: "C:\\m.gguf",
    tokens: 1,
    sparsity: null,
  });
});

test("parseBinding: says what was found and wanted", () => {
  for (
    const [text, message] of [
      ["", /"" found, null, declared/],
      ["nul", /"nul" found, null, declared/],
      ["null:1", /"1" found, nothing after null wanted/],
      ["declared:-1", /"-1" found, busy, idle or milliseconds/],
      ["declared:", /"" found, busy, idle or milliseconds/],
      ["declared:busy:1:2", /"2" found, nothing after the milliseconds/],
      ["shape:int3", /"int3" found, f32, int8 or a divisor/],
      ["shape:0.5", /"0.5" found, .*from 1 to 1024/],
      ["shape:f32:2:2", /nothing after the divisor/],
      ["real:tokens=0", /"0" found, tokens/],
      ["real:tokens=1.5", /"1.5" found, tokens/],
      ["real:sparsity=1", /"1" found, sparsity/],
      ["real:", /"" found, a model/],
    ] as const
  ) assert.throws(() => parseBinding(text), { name: "RangeError", message }, text);
});

test("parseTier: every form, and back", () => {
  for (const text of ["asShipped", "depthwise", "scaled:rate=2", "scaled:rate=1.5:resolution=4"]) {
    assert.equal(tierText(parseTier(text)), text);
  }
  for (
    const text of ["", "scale", "scaled", "scaled:", "scaled:rate=0", "scaled:size=2", "depthwise:rate=2"]
  ) {
    assert.throws(() => parseTier(text), { name: "RangeError", message: /found, .* wanted/ }, text);
  }
});

test("productsOf: multiply-adds as encoded and as the networks are", async () => {
  for (const { name, layers } of await builtinModels()) {
    const { macsValid, macsRealistic } = countLayers(layers);
    const shipped = productsOf(layers, { name: "asShipped" }, 1);
    assert.equal(macsOf(shipped), macsValid, name);
    assert.ok(shipped.every(({ groups, patch: { stride } }) => groups === 1 && stride === 1), name);
    assert.equal(macsOf(productsOf(layers, { name: "depthwise" }, 1)), macsRealistic, name);
    const half = macsOf(productsOf(layers, { name: "scaled" }, 2));
    assert.ok(half >= macsRealistic / 4 && half < 0.65 * macsRealistic, `${name} ${half / macsRealistic}`);
  }
});

/** A step that a clock makes, in readings. */
function clockOf(stepMs: number, readings: number): () => number {
  let n = 0;
  return () => Math.floor(n++ / readings) * stepMs;
}

test("stepOf: the least step, whatever comes between", () => {
  const fine = clockOf(0.005, 7);
  let calls = 0, late = 0;
  assert.ok(Math.abs(stepOf(() => fine() + (++calls > 200 ? late += 3 : late)) - 0.005) < 1e-9);
  assert.ok(Math.abs(stepOf(clockOf(0.1, 3)) - 0.1) < 1e-9);
});

test("gapsOf: what a thread that only reads the clock misses", () => {
  let readings = 0, late = 0;
  // each hundredth reading of a microsecond's step comes 0.9 ms late
  const clock = (): number => ++readings * 0.001 + (readings % 100 === 0 ? late += 0.9 : late);
  const { perSecond, share, longestMs } = gapsOf(clock, 0.001);
  assert.ok(Math.abs(perSecond - 1000) < 10, String(perSecond));
  assert.ok(Math.abs(share - 0.9) < 0.01, String(share));
  assert.ok(Math.abs(longestMs - 0.901) < 1e-9, String(longestMs));
  // steps of a coarse clock are none
  assert.deepEqual(gapsOf(clockOf(0.1, 3), 0.1), { perSecond: 0, share: 0, longestMs: 0 });
});

test("checkStep: a clock coarser than 0.02 ms scores only with k lowered as much", () => {
  checkStep(0.02, 15);
  checkStep(0.005, 60);
  assert.throws(() => checkStep(0.1, 15), /Cannot score: the clock here steps by 0\.10 ms.*lower k to 3 /);
  checkStep(0.1, 3);
  assert.throws(() => checkStep(0.1, 3.1), /Cannot score/);
  assert.equal(steepest(0.04), 7.5);
});

test("offsetOf: by the quickest answer", () => {
  const found = offsetOf([
    { askedMs: 0, otherMs: 105, answeredMs: 20 },
    { askedMs: 30, otherMs: 131, answeredMs: 32 },
    { askedMs: 40, otherMs: 170, answeredMs: 90 },
  ]);
  assert.deepEqual(found, { offsetMs: -100, errorMs: 1 });
  assert.throws(() => offsetOf([]), RangeError);
});

/** y of one product for its last rows, in doubles, from what `ShapeModel` says its numbers are: a tile of draws, over and over. */
function lastRow(product: Product, seed: number, weightsBefore: number): Float64Array {
  const random = new Random(seed), tile = new Float32Array(1 << 16);
  for (let i = 0; i < tile.length; i++) tile[i] = random.uniform() - 0.5;
  const { patch: { width, channels, outWidth, stride, kernelHeight, kernelWidth }, groups } = product;
  const own = channels / groups, group = groups - 1, row = product.rows - 1;
  const y = Math.floor(row / outWidth) * stride, x = (row % outWidth) * stride, patch: number[] = [];
  for (let r = 0; r < kernelHeight; r++) {
    for (let s = 0; s < kernelWidth; s++) {
      for (let c = 0; c < own; c++) {
        patch.push(tile[(((y + r) * width + x + s) * channels + group * own + c) % tile.length]!);
      }
    }
  }
  const panels = Math.ceil(product.nOut / 8);
  return Float64Array.from({ length: product.nOut }, (_, o) => {
    const panel = (group * panels + Math.floor(o / 8)) * product.nIn * 8;
    return patch.reduce(
      (sum, value, i) => sum + value * tile[(panel + i * 8 + o % 8 + weightsBefore) % tile.length]!,
      0,
    );
  });
}

test("ShapeModel: patches times weights, with strides, kernels, groups, and more rows than go at a time", async () => {
  const cases = [
    { K: 16, C: 12, Y: 5, X: 1, R: 1, S: 1 },
    { K: 13, C: 8, Y: 20, X: 17, R: 1, S: 1 },
    { K: 9, C: 3, Y: 14, X: 11, R: 3, S: 5, stride: 2 },
    { K: 6, C: 6, Y: 9, X: 9, R: 3, S: 3, groups: 6 },
    { K: 8, C: 4, Y: 13, X: 12, R: 3, S: 3, stride: 2, groups: 2 },
  ];
  for (const layer of cases) {
    const products = productsOf([{ type: "CONV", N: 1, ...layer }], { name: "depthwise" }, 1);
    assert.equal(products.length, 1);
    const [product] = products, model = await ShapeModel.open(products, "f32", 5);
    model.run();
    const stride = Math.ceil(product!.nOut / 8) * 8, last = (product!.rows - 1) % 128;
    const found = model.lastOutputs((last + 1) * stride).subarray(last * stride);
    lastRow(product!, 5, 0).forEach((wanted, o) => {
      assert.ok(
        Math.abs(found[o]! - wanted) < 1e-4,
        `${JSON.stringify(layer)} output ${o}: ${found[o]} ${wanted}`,
      );
    });
  }
});

test("ShapeModel: int8 gives numbers that are not all alike, and weighs a quarter", async () => {
  const products = productsOf(
    [{ type: "CONV", N: 1, K: 24, C: 40, Y: 6, X: 6, R: 3, S: 3 }],
    { name: "depthwise" },
    1,
  );
  const [f32, int8] = [await ShapeModel.open(products, "f32", 1), await ShapeModel.open(products, "int8", 1)];
  int8.run();
  const outputs = int8.lastOutputs(24);
  assert.ok(outputs.every((y) => Number.isFinite(y)));
  assert.ok(new Set(outputs).size > 20);
  assert.equal(f32.weightBytes, 4 * 360 * 24);
  assert.equal(int8.weightBytes, 384 * 24);
});

const pair: Scenario = parseScenario({
  models: [{ name: "up", fps: 50 }, { name: "down", fps: 50, probability: 0.7, dependencies: ["up"] }],
});

test("bindModels: by name, task and *, the scenario's own, and by what a model is", async () => {
  const models = await builtinModels(), outdoor = await builtinScenario("outdoor_activity_B");
  const kinds = (given: readonly (readonly [string, string])[]): string[] =>
    bindModels(outdoor, given.map(([name, text]) => [name, parseBinding(text)] as const), models).map(
      bindingText,
    );
  assert.deepEqual(kinds([]), ["shape:f32", "shape:f32", "declared:idle"]);
  assert.deepEqual(kinds([["*", "null"], ["OD", "declared:1"]]), ["null", "null", "declared:idle:1"]);
  assert.deepEqual(kinds([["KD", "null"], ["KD_res8_narrow", "declared:busy:1"]])[0], "declared:busy:1");
  assert.throws(() => kinds([["XX", "null"]]), /"XX" found, one of KD_res8_narrow, .* wanted/);
  const own = parseScenario({ models: [{ name: "a", fps: 1, binding: "shape:nonsense" }] }, "mine");
  assert.throws(() => bindModels(own, [], models), /scenario mine: models\[0\]\.binding: "nonsense" found/);
  assert.throws(
    () => parseScenario({ models: [{ name: "a", fps: 1, binding: "fast" }] }),
    /models\[0\]\.binding/,
  );
});

test("declaredMs, worksOf: what is nowhere to be found is an error that names it", () => {
  const idle = pair.models.map(() => parseBinding("declared"));
  assert.throws(
    () => declaredMs(pair, idle, {}, false),
    /models\[0\]: up is declared and has no length: bind up=/,
  );
  const given = pair.models.map(() => parseBinding("declared:busy:2"));
  assert.deepEqual(declaredMs(pair, given, { accelerators: 3 }, false), [[2, 2], [2, 2], [2, 2]]);
  assert.deepEqual(declaredMs(pair, given, { accelerators: 3 }, true), [[2, 2]]);
  const tier = parseTier("depthwise");
  assert.throws(
    () => worksOf(pair, pair.models.map(() => parseBinding("shape")), { tier }, [[0, 0]], []),
    /models\[0\]: up is bound to shape and has no layers/,
  );
  assert.throws(
    () => worksOf(pair, pair.models.map(() => parseBinding("real")), { tier }, [[0, 0]], []),
    /models\[0\]: up is bound to real and no model is named/,
  );
});

/** Runs a load through the loader, by a clock that jumps from event to event, as `simulate` does. */
function runByEvents(
  scenario: Scenario,
  frames: readonly Frame[],
  latencyMs: readonly (readonly number[])[],
  order: "name" | "edf" | "slack",
  dials: readonly RealDial[] = [],
  killAt: readonly { readonly accelerator: number; readonly ms: number }[] = [],
): Loader {
  const running = latencyMs.map((): Ended | null => null), killed = latencyMs.map(() => false);
  let t = 0;
  const loader = new Loader(
    { scenario, frames, order, expectedMs: latencyMs, dials, k: 15 },
    (accelerator, { model, sparsity }) => {
      const ms = latencyMs[accelerator]![model]! * (1 - (Number.isNaN(sparsity) ? 0 : sparsity));
      running[accelerator] = { accelerator, startMs: t, endMs: t + ms };
    },
  );
  while (!loader.isOver) {
    const kill = killAt.filter(({ accelerator }) => !killed[accelerator]);
    t = Math.min(loader.nextMs, ...running.map((job) => job?.endMs ?? Infinity), ...kill.map(({ ms }) => ms));
    const lost = kill.filter(({ ms }) => ms <= t).map(({ accelerator }) => {
      killed[accelerator] = true;
      running[accelerator] = null;
      return { accelerator, reason: "it burns" };
    });
    const ended = running.filter((job) => job !== null && job.endMs <= t).map((job) => job!);
    for (const { accelerator } of ended) running[accelerator] = null;
    loader.step(t, ended, lost);
  }
  return loader;
}

/** Every frame that was asked for has one line, and no two jobs of an accelerator are at one time. */
function assertConserved(log: readonly LogEntry[], frames: readonly Frame[], scenario: Scenario): void {
  const wanted = frames.map(({ model, frame }) => `${scenario.models[model]!.name} ${frame}`).sort();
  assert.deepEqual(log.map(({ model, frame }) => `${model} ${frame}`).sort(), wanted);
  for (const { accelerator } of log) {
    const own = log.filter((entry) => !entry.dropped && entry.accelerator === accelerator)
      .sort((a, b) => a.dispatchMs - b.dispatchMs);
    own.forEach(({ dispatchMs }, i) => assert.ok(i === 0 || dispatchMs >= own[i - 1]!.completionMs));
  }
}

test("Loader: where nothing takes time but jobs, its decisions are the simulator's", async () => {
  const random = new Random(7), switches = switchesOfMode("corrected");
  for (const id of ["social_interactionA", "AR_Assistant", "outdoor_activity_A"]) {
    const scenario = await builtinScenario(id);
    for (const order of ["name", "edf", "slack"] as const) {
      for (const accelerators of [1, 2, 4]) {
        const latencyMs = Array.from(
          { length: accelerators },
          () => scenario.models.map(() => 25 * random.uniform()),
        );
        const options = { seed: random.bits() % 1000, durationMs: 700, maxJitterMs: 3, switches };
        const frames = drawFrames(scenario, options);
        const costs = latencyMs.map((models) => models.map((ms) => ({ cycles: 1e6 * ms, energyNJ: 0 })));
        const wanted = simulate(scenario, tableExecutor(costs, "latency", false), {
          ...options,
          order,
          frames,
        });
        const loader = runByEvents(
          scenario,
          frames,
          costs.map((models) => models.map(({ cycles }) => cycles / 1e6)),
          order,
        );
        assert.deepEqual(loader.log, wanted.log, `${id} ${order} ${accelerators}`);
        assert.deepEqual(loader.requests, wanted.requests);
        assertConserved(loader.log, frames, scenario);
      }
    }
  }
});

const everyFrame = (scenario: Scenario): Frame[] =>
  drawFrames(scenario, { seed: 3, durationMs: 700, maxJitterMs: 0.01, switches: switchesOfMode("real") });

test("Loader: an accelerator that is lost takes its frame with it, and the others go on", () => {
  const frames = everyFrame(pair);
  const loader = runByEvents(pair, frames, [[8, 8], [8, 8]], "name", [], [{ accelerator: 0, ms: 101 }]);
  assertConserved(loader.log, frames, pair);
  assert.deepEqual(
    loader.losses.map((
      { accelerator, atMs, reason, job },
    ) => [accelerator, atMs, reason, job?.model, job?.frame]),
    [[0, 101, "it burns", "up", 5]],
  );
  const lost = loader.log.filter(({ reason }) => reason === "lost");
  assert.deepEqual(
    lost.map(({ model, frame, dropped, completionMs }) => [model, frame, dropped, completionMs]),
    [
      ["up", 5, true, 101],
    ],
  );
  const down = frames.some(({ model, frame }) => model === 1 && frame === 5);
  assert.equal(
    loader.log.some(({ model, frame, reason }) => model === "down" && frame === 5 && reason === "upstream"),
    down,
  );
  const after = loader.log.filter(({ dispatchMs, dropped }) => dispatchMs > 101 && !dropped);
  assert.ok(after.length > 20);
  assert.ok(after.every(({ accelerator }) => accelerator === 1));
});

test("Loader: with no accelerator left, all that is still to come is dropped as lost", () => {
  const frames = everyFrame(pair);
  const loader = runByEvents(pair, frames, [[8, 8]], "edf", [], [{ accelerator: 0, ms: 101 }]);
  assertConserved(loader.log, frames, pair);
  assert.equal(loader.isAlive, false);
  const late = loader.log.filter(({ injectionMs }) => injectionMs > 101);
  assert.ok(late.length > 20 && late.every(({ reason }) => reason === "lost"));
  assert.ok(loader.log.every(({ completionMs, injectionMs }) => completionMs >= injectionMs));
});

test("Loader: a policy chooses the sparsity of each frame, and its fidelity is the frame's accuracy", () => {
  const frames = everyFrame(pair);
  const levels = [{ sparsity: 0, fidelity: 1, latencyMs: 30 }, {
    sparsity: 0.8,
    fidelity: 0.9,
    latencyMs: 6,
  }];
  const loader = runByEvents(pair, frames, [[30, 2]], "name", [{ model: 0, policy: "slack", levels }]);
  const up = loader.jobs.filter(({ model }) => model === "up");
  assert.ok(up.length > 20 && up.every(({ sparsity }) => sparsity === 0.8));
  assert.ok(loader.jobs.filter(({ model }) => model === "down").every(({ sparsity }) => sparsity === null));
  for (const { model, dropped, accuracy } of loader.log) {
    assert.equal(accuracy, model === "up" && !dropped ? 0.9 : undefined);
  }
});

test("drive: by a clock of its own, a load through the rings of a board, and an accelerator that dies", () => {
  const board = new Board(new SharedArrayBuffer(8192), 2), frames = everyFrame(pair);
  let ms = 1000;
  const loader = new Loader(
    { scenario: pair, frames, order: "name", expectedMs: [[1, 1], [1, 1]], dials: [], k: 15 },
    (accelerator, job) => board.send(accelerator, job),
  );
  board.waitForChange = (_, sleptMs) => void (ms += sleptMs);
  // an answer to what time it is, from one that was lost before the answer was looked for
  board.finish(0, { model: COMPARE, frame: 0, startMs: 0, endMs: 0 });
  let jobs = 0;
  const running: ({ model: number; frame: number; startMs: number } | null)[] = [null, null];
  // the other clock is 500 ms behind; a job takes 1 ms; accelerator 1 dies of its tenth
  const serveAll = (): void => {
    for (const accelerator of [0, 1]) {
      const now = ms - 500, job = running[accelerator];
      const lastsMs = board.lossOf(accelerator) === null ? 1 : 60;
      if (job != null && now >= job.startMs + lastsMs) {
        running[accelerator] = null;
        board.finish(accelerator, { ...job, endMs: now });
      }
      const next = board.lossOf(accelerator) === null ? board.takeJob(accelerator) : null;
      if (next === null) continue;
      if (accelerator === 1 && ++jobs === 10) board.lose(1, "its tenth job");
      // which it ends all the same, when nobody counts on it
      running[accelerator] = { ...next, startMs: now };
    }
  };
  const { isWhole, originMs } = drive(loader, board, () => {
    serveAll();
    return ms += 0.01;
  }, { offsetsMs: [500, 500], patienceMs: 1000 });
  assert.equal(isWhole, true);
  assert.ok(originMs > 1000);
  assertConserved(loader.log, frames, pair);
  assert.deepEqual(loader.losses.map(({ accelerator, reason }) => [accelerator, reason]), [[
    1,
    "its tenth job",
  ]]);
  assert.ok(loader.errorsMs.every((error) => error >= 0 && error < 0.1), `${Math.max(...loader.errorsMs)}`);
  assert.ok(loader.jobs.every(({ startMs, endMs, dispatchMs }) => startMs >= dispatchMs && endMs > startMs));
  board.stop();
  assert.equal(drive(loader, board, () => ms += 0.01, { offsetsMs: [0, 0], patienceMs: 1 }).isWhole, false);
});

test("findRate: doubles, halves, and closes in on the largest rate that is kept", async () => {
  const machine = (most: number): { run(options: { rate?: number }): Promise<RealRun> } => ({
    run: ({ rate = 1 } = {}) =>
      Promise.resolve(
        {
          result: { models: { a: { hitRate: 1 }, b: { hitRate: rate <= most ? 1 : 0.9 } } },
        } as unknown as RealRun,
      ),
  });
  for (const most of [0.05, 0.7, 1, 5.3]) {
    const { search, best } = await findRate(machine(most), { durationMs: 700 });
    assert.ok(search.rate <= most && search.rate > 0.95 * most, `${search.rate} of ${most}`);
    assert.ok(best !== null);
    assert.ok(search.probes.some(({ worst }) => worst === "b"));
  }
  assert.equal((await findRate(machine(1e9), { durationMs: 700 })).search.rate, 64);
  const none = await findRate(machine(0), { durationMs: 700 });
  assert.deepEqual([none.search.rate, none.best], [0, null]);
});
