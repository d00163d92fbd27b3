/** Scores and the harness's two files, by hand; monotone in what they should be. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  energyScore,
  type LogEntry,
  readSwitches,
  realTimeScore,
  scheduleCsv,
  scoreLog,
  sixDecimals,
  summaryCsv,
} from "../../src/xr/mod.ts";
import { Random } from "../support/kernels.ts";

const COMPAT = readSwitches("compat", []), CORRECTED = readSwitches("corrected", []);

function entry(changes: Partial<LogEntry> = {}): LogEntry {
  return {
    model: "A",
    frame: 0,
    accelerator: 0,
    injectionMs: 0,
    dispatchMs: 0,
    deadlineMs: 10,
    completionMs: 5,
    energyMJ: 150,
    dropped: false,
    reason: "",
    ...changes,
  };
}

test("realTimeScore: the specification's numbers, in both precisions", () => {
  for (const float32 of [false, true]) {
    assert.equal(realTimeScore(0, 15, float32), 0.5);
    const near = (delay: number, wanted: number): void =>
      assert.ok(Math.abs(realTimeScore(delay, 15, float32) - wanted) < 5e-5, `${delay}`);
    near(-0.1, 0.8176);
    near(0.1, 0.1824);
    near(-0.3064, 0.99);
    near(-0.461, 0.999);
    assert.equal(realTimeScore(1e9, 15, float32), 0);
    assert.equal(realTimeScore(-1e9, 15, float32), 1);
  }
  assert.equal(realTimeScore(-1.12, 15, true), 1);
  assert.equal(realTimeScore(5.93, 15, true), 0);
  assert.ok(realTimeScore(5.93) > 0);
});

test("compat scores: 0.1 ms of slack, worked through", () => {
  const completionMs = Math.fround(15.9);
  const log = Array.from(
    { length: 11 },
    (_, frame) => entry({ frame, deadlineMs: 16, completionMs, energyMJ: 100 }),
  );
  const { overall, models } = scoreLog(log, { switches: COMPAT });
  // the specification's 0.8175765 is a mean over frames whose ends are rounded otherwise
  assert.ok(Math.abs(models.get("A")!.rt - 0.8175753) < 1e-7);
  assert.ok(Math.abs(models.get("A")!.energy - 0.9333333) < 1e-7);
  assert.ok(Math.abs(overall - 76.30703) < 1e-5);
});

test("corrected scores: accuracy enters, energy is clamped, percentiles are nearest ranks", () => {
  const log = [
    entry({ accuracy: 0.5 }),
    entry({ frame: 1, completionMs: 12, energyMJ: 2000 }),
    entry({ frame: 2, dropped: true, accelerator: -1, reason: "late" }),
    entry({ model: "B", completionMs: 9 }),
  ];
  const { overall, models } = scoreLog(log, { switches: CORRECTED });
  const { rt, energy, accuracy, qoe, score, nExecuted, nDropped, nLate, latenessMs } = models.get("A")!;
  assert.deepEqual([nExecuted, nDropped, nLate], [2, 1, 1]);
  assert.deepEqual(latenessMs, { p50: -5, p95: 2, p99: 2 });
  assert.deepEqual([energy, accuracy], [0.45, 0.75]);
  assert.ok(Math.abs(qoe - 2 / 3) < 1e-12);
  assert.ok(Math.abs(rt - 0.5) < 1e-9);
  assert.ok(Math.abs(score - 0.45 / 3) < 1e-9);
  assert.ok(Math.abs(overall - 100 * (0.15 + 0.9) / 2) < 1e-4);
  const gone = scoreLog([entry({ dropped: true })], { switches: CORRECTED });
  assert.deepEqual([gone.overall, gone.models.get("A")!.rt, gone.models.get("A")!.latenessMs], [0, 0, null]);
  assert.deepEqual(scoreLog([], { switches: CORRECTED }), { overall: 0, models: new Map() });
});

test("scores: k and the energy limit are options", () => {
  assert.ok(
    Math.abs(
      scoreLog([entry({ completionMs: 10 })], { k: 3, eMaxMJ: 300, switches: CORRECTED }).overall - 25,
    ) < 1e-9,
  );
  assert.ok(realTimeScore(1, 1) > realTimeScore(1, 15));
});

test("scores: never more for a later end, more energy, less accuracy, or a frame dropped; 10,000 random logs", () => {
  const random = new Random(11);
  for (let i = 0; i < 10_000; ++i) {
    const switches = readSwitches("corrected", i % 2 === 0 ? [] : ["qoeSquared", "float32"]);
    const log = Array.from({ length: 1 + random.below(12) }, (_, frame) =>
      entry({
        model: "AB"[random.below(2)]!,
        frame,
        completionMs: 10 + 2 * random.normal(),
        energyMJ: 1400 * random.uniform(),
        accuracy: random.uniform(),
        dropped: random.below(4) === 0,
      }));
    const at = random.below(log.length), old = log[at]!;
    const worse: Partial<LogEntry>[] = [
      { completionMs: old.completionMs + random.uniform() },
      { energyMJ: old.energyMJ + 200 * random.uniform() },
      { accuracy: old.accuracy! * random.uniform() },
      { dropped: true },
    ];
    const { overall } = scoreLog(log, { switches });
    for (const change of worse) {
      const changed = log.map((line, j) => j === at ? { ...line, ...change } : line);
      const after = scoreLog(changed, { switches }).overall;
      // rounding alone may lift a sum in single precision by some units in the last place
      if (!(after <= overall + 1e-5)) {
        assert.fail(`case ${i}: ${JSON.stringify(change)}: ${overall} became ${after}`);
      }
    }
    for (
      const [a, b] of [[random.normal(), random.uniform()], [40 * random.normal(), random.uniform()]] as const
    ) {
      for (const float32 of [false, true]) {
        assert.ok(realTimeScore(a + b, 15, float32) <= realTimeScore(a, 15, float32));
      }
    }
    assert.ok(energyScore(old.energyMJ + 1) <= energyScore(old.energyMJ));
  }
});

/** Exact: a double is a whole number of 2 ** -1074. */
function exactSix(x: number): string {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, Math.abs(x));
  const bits = view.getBigUint64(0), exponent = Number(bits >> 52n), fraction = bits & ((1n << 52n) - 1n);
  const mantissa = exponent === 0 ? fraction : fraction | (1n << 52n),
    shift = BigInt(Math.max(exponent, 1) - 1);
  const scaled = (mantissa << shift) * 1_000_000n, unit = 1n << 1074n, rest = scaled % unit;
  let digits = scaled / unit;
  if (2n * rest > unit || (2n * rest === unit && digits % 2n === 1n)) digits++;
  const text = String(digits).padStart(7, "0");
  return `${x < 0 || Object.is(x, -0) ? "-" : ""}${text.slice(0, -6)}.${text.slice(-6)}`;
}

test("sixDecimals: as C rounds, ties to even", () => {
  const random = new Random(2);
  const values = [
    0,
    -0,
    604.7265625,
    1 / 128,
    3 / 128,
    -5 / 128,
    0.5,
    1e-7,
    5e-7,
    -1e-9,
    123456.0078125,
    1e15,
    5e-324,
  ];
  for (let i = 0; i < 5000; ++i) {
    values.push(
      random.normal() * 10 ** random.below(9),
      Math.fround(random.uniform() * 700),
      random.below(1e6) / 128,
    );
  }
  for (const value of values) assert.equal(sixDecimals(value), exactSix(value), `${value}`);
  assert.equal(sixDecimals(604.7265625), "604.726562");
});

test("summary and schedule: byte order of names, accelerator after accelerator, dropped frames with their reasons", () => {
  const log = [
    entry({ model: "b", accelerator: 1, completionMs: 10.5 }),
    entry({ model: "B", accelerator: 0, frame: 3 }),
    entry({ model: "B", accelerator: -1, frame: 4, dropped: true, reason: "upstream", energyMJ: 0 }),
  ];
  assert.equal(
    scheduleCsv(log, { float32: false, reasons: true }),
    "AcceleratorID,Model Name,Frame ID,Injection Time (ms),Dispatch Time (ms),Deadline Time (ms),Completion Time (ms),Violated Deadline Amount (ms),Energy (mJ),Reason\n" +
      "0,B,3,0.000000,0.000000,10.000000,5.000000,-5.000000,150.000000,\n" +
      "1,b,0,0.000000,0.000000,10.000000,10.500000,0.500000,150.000000,\n" +
      "-1,B,4,0.000000,0.000000,10.000000,5.000000,-5.000000,0.000000,upstream\n",
  );
  const plain = scheduleCsv(log, { float32: true, reasons: false }).split("\n");
  assert.equal(plain.length, 4);
  assert.ok(!plain[0]!.includes("Reason"));
  const lines = summaryCsv(scoreLog(log, { switches: CORRECTED })).split("\n");
  assert.deepEqual(lines.map((line) => line.split(",")[0]), ["Model Name", "B", "b", "Overall Score", ""]);
});
