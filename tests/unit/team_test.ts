import assert from "node:assert/strict";
import { test } from "node:test";
import { noSharedMemoryReason } from "../../src/kernels/probe.ts";
import { PART_KERNELS } from "../../src/kernels/recorder.ts";
import type { StartWorker, Team } from "../../src/kernels/team.ts";
import { CONTROL } from "../../src/kernels/team_worker.ts";
import { detectPlatform } from "../../src/platform/detect.ts";
import { assertSameBits, Random } from "../support/kernels.ts";
import { runProgram } from "../support/process.ts";
import { scriptCommand, thisRuntime } from "../support/runtimes.ts";
import { type OpenTeam, openTeam } from "../support/team.ts";

const platform = await detectPlatform();
const skip = noSharedMemoryReason() ?? (platform.startWorker ? false : "there are no workers");

/** f32[n] of `team`'s memory, holding `content`. */
function floats(
  { kernels, allocate }: OpenTeam,
  content: ArrayLike<number>,
): { at: number; values: Float32Array } {
  const at = allocate(4 * content.length);
  new Float32Array(kernels.memory.buffer, at, content.length).set(content);
  return {
    at,
    get values() {
      return new Float32Array(kernels.memory.buffer, at, content.length);
    },
  };
}

test("PART_KERNELS: as many arguments as the kernels have", { skip }, async () => {
  const { kernels, team } = await openTeam(1);
  for (const [name, [number, types]] of Object.entries(PART_KERNELS)) {
    const kernel =
      (kernels as unknown as { readonly [name: string]: { readonly length: number } | undefined })[name];
    // the relaxed build has some that the baseline build has not
    if (kernel !== undefined) assert.equal(types.length, kernel.length, `${number} ${name}`);
  }
  const numbers = Object.values(PART_KERNELS).map(([number]) => number);
  assert.equal(new Set(numbers).size, numbers.length);
  await team.close();
});

for (const threads of [1, 2, 3, 7]) {
  test(
    `Team.each: ${threads} threads run every part once, in 10,000 steps of any size`,
    { skip },
    async () => {
      const open = await openTeam(threads), { team } = open, random = new Random(1);
      assert.equal(team.threads, threads);
      const cells = 150,
        ones = floats(open, new Array(16).fill(1)),
        y = floats(open, new Array(16 * cells).fill(0));
      const expected = new Float32Array(16 * cells);
      for (let step = 0; step < 10_000; step++) {
        const n = random.below(step % 100 === 0 ? cells + 1 : 12), first = random.below(cells - n + 1);
        team.each(n, (k, from, to) => {
          for (let i = first + from; i < first + to; i++) k.addF32(y.at + 64 * i, ones.at, 16);
        });
        for (let i = 16 * first; i < 16 * (first + n); i++) expected[i]!++;
      }
      assertSameBits(y.values, expected, "counts");
      await team.close();
    },
  );
}

test("Team.each: integers, f32 and scratch reach kernels as they are, and results are those of one thread", {
  skip,
}, async () => {
  const results: Uint8Array[] = [];
  for (const threads of [1, 2, 3]) {
    const open = await openTeam(threads), { kernels, team, allocate } = open, random = new Random(2);
    const nIn = 128,
      nOut = 96,
      x = floats(open, random.weights(nIn)),
      y = floats(open, new Array(nOut).fill(NaN));
    const normed = floats(open, new Array(4 * nIn).fill(NaN)), weight = floats(open, random.weights(nIn));
    const rows = floats(open, random.weights(nIn * nOut)),
      w = allocate(nIn * nOut),
      rowScale = floats(open, random.weights(nOut));
    new Uint8Array(kernels.memory.buffer, w, nIn * nOut).set(random.bytes(nIn * nOut));
    const wide = allocate(2 * nIn * nOut), wideY = floats(open, new Array(nOut).fill(NaN));
    kernels.packBf16(wide, rows.at, nIn * nOut);
    const xq = allocate(2 * nIn),
      ones = floats(open, new Array(nIn).fill(1)),
      unit = kernels.quantizeI16(xq, x.at, ones.at, nIn, nIn);
    // negative: sums are i32
    const sum = kernels.sumI16(xq, nIn);
    team.each(
      nOut / 16,
      (k, from, to) =>
        k.gemvPairsI8(
          y.at + 64 * from,
          w + 16 * nIn * from,
          xq,
          rowScale.at + 64 * from,
          unit,
          sum,
          nIn,
          16 * (to - from),
        ),
    );
    team.each(4, (k, from, to) => {
      for (let i = from; i < to; i++) {
        k.rmsNormF32(normed.at + 4 * nIn * i, x.at, weight.at, nIn, 1e-5 * (i + 1));
      }
    });
    team.each(
      nOut,
      (k, from, to, scratch) =>
        k.gemvRowsBf16(wideY.at + 4 * from, wide + 2 * nIn * from, x.at, nIn, to - from, scratch),
    );
    assert.ok(
      y.values.every(Number.isFinite) && normed.values.every(Number.isFinite) &&
        wideY.values.every(Number.isFinite),
    );
    results.push(new Uint8Array(Float32Array.from([...y.values, ...normed.values, ...wideY.values]).buffer));
    await team.close();
  }
  assertSameBits(results[1]!, results[0]!, "2 threads");
  assertSameBits(results[2]!, results[0]!, "3 threads");
});

test("Team.each: the memory may grow between steps", { skip }, async () => {
  const open = await openTeam(2), { kernels, team } = open, ones = floats(open, new Array(64).fill(1));
  kernels.memory.grow(100);
  const y = floats(open, new Array(64).fill(1));
  team.each(4, (k, from, to) => k.addF32(y.at + 64 * from, ones.at, 16 * (to - from)));
  assertSameBits(y.values, new Float32Array(64).fill(2), "y");
  await team.close();
});

/** A step whose parts write far outside of the memory. */
function overrun(team: Team): void {
  team.each(8, (k, from, to) => {
    for (let i = from; i < to; i++) k.fillZeroF32(0xffffff00, 64);
  });
}

test("Team.each: what a thread throws rejects the step and those after it", { skip }, async () => {
  const { team } = await openTeam(2);
  // whichever thread it was that trapped first
  assert.throws(() => overrun(team), /out of bounds|unreachable/i);
  assert.throws(() => team.each(8, () => {}), /Cannot compute on: .*out of bounds.*load the model again/i);
  await team.close();
});

/** A worker that does what `code` says, a function body of what a real one is started with. */
function strangeWorker(code: string): StartWorker {
  return (_, data, events) =>
    platform.startWorker!(
      `(start, send) => { const { memory, control, thread } = start; ${code} }`,
      data,
      events,
    );
}

test(
  "Team.each: a thread that took a part and is gone is an error, not a wait without end",
  { skip },
  async () => {
    // takes a part as assembly/team.ts does, and ends
    const startWorker = strangeWorker(`
    send("ready");
    const words = new Int32Array(memory.buffer), range = (control + ${CONTROL.ranges}) / 4 + 16 * thread;
    for (;;) {
      const word = Atomics.load(words, range);
      if (((word >> 8) & 255) < (word & 255) && Atomics.compareExchange(words, range, word, word + 256) === word) return;
    }`);
    const { team } = await openTeam(2, { startWorker, patience: 10 });
    const step = () =>
      team.each(64, (k, from, to) => {
        // long enough for the other thread to wake
        for (let i = 0; i < 200; i++) k.fillZeroF32(1 << 12, (to - from) * 1);
      });
    assert.throws(() => {
      for (let i = 0; i < 100_000; i++) step();
    }, /Cannot compute on: a thread does not go on with its part/);
    assert.throws(step, /load the model again/);
    await team.close();
  },
);

test("Team.each: a worker ended in the middle of a step never hangs it", { skip }, async () => {
  const workers: ReturnType<StartWorker>[] = [];
  const startWorker: StartWorker = (...args) => {
    const worker = platform.startWorker!(...args);
    workers.push(worker);
    return worker;
  };
  const open = await openTeam(2, { startWorker, patience: 10 }), { team } = open;
  const x = floats(open, new Array(4096).fill(1)),
    w = floats(open, new Array(1 << 20).fill(1)),
    y = floats(open, new Array(2048).fill(0));
  workers[0]!.terminate();
  try {
    // 8 parts of some 50 ms
    team.each(8, (k, from) => {
      for (let i = 0; i < 200; i++) k.gemvRowsF32(y.at + 1024 * from, w.at, x.at, 4096, 256);
    });
    assertSameBits(y.values, new Float32Array(2048).fill(4096), "y");
  } catch (error) {
    assert.match(String(error), /Cannot compute on: a thread does not go on with its part/);
  }
  await team.close();
});

test("Team: goes on with those that are left when a worker ends between steps", { skip }, async () => {
  const workers: ReturnType<StartWorker>[] = [];
  const startWorker: StartWorker = (...args) => {
    const worker = platform.startWorker!(...args);
    workers.push(worker);
    return worker;
  };
  const open = await openTeam(3, { startWorker }), { team } = open;
  await workers[0]!.terminate();
  await new Promise((resolve) => setTimeout(resolve, 50));
  const y = floats(open, new Array(16 * 50).fill(0)), ones = floats(open, new Array(16).fill(1));
  for (let step = 0; step < 100; step++) {
    team.each(50, (k, from, to) => {
      for (let i = from; i < to; i++) k.addF32(y.at + 64 * i, ones.at, 16);
    });
  }
  assertSameBits(y.values, new Float32Array(800).fill(100), "y");
  if (team.threads !== 3) {
    // where the runtime tells
    assert.equal(team.threads, 2);
    assert.match(team.reason!, /thread 2 ended/);
  }
  await team.close();
});

test("Team.start: a worker that fails or does not answer is an error that says so", { skip }, async () => {
  const fails = strangeWorker('send("no room");');
  await assert.rejects(openTeam(2, { startWorker: fails }), /Cannot start thread 2 of 2: .*no room/);
  const silent = strangeWorker("Atomics.wait(new Int32Array(memory.buffer), control / 4, 0, 20000);");
  await assert.rejects(
    openTeam(3, { startWorker: silent, startMs: 100 }),
    /Cannot start thread \d of 3: it did not answer within 0.1 s/,
  );
  const forbidden: StartWorker = () => {
    throw new Error("not here");
  };
  await assert.rejects(openTeam(2, { startWorker: forbidden }), /Cannot start thread 2 of 2: .*not here/);
});

test("Team.close: ends the workers; steps are errors then", { skip }, async () => {
  let ended = 0;
  const startWorker: StartWorker = (code, data, events) =>
    platform.startWorker!(code, data, { ...events, end: (reason) => (ended++, events.end(reason)) });
  const { team } = await openTeam(3, { startWorker });
  await team.close();
  await team.close();
  assert.throws(() => team.each(8, () => {}), /Cannot compute on: its threads have ended/);
  if (platform.hasFiles) assert.equal(ended, 2);
});

test("Team: workers do not keep a process alive", {
  skip: skip || (platform.run ? false : "there are no processes"),
}, async () => {
  const { code, stdout, stderr } = await runProgram(
    scriptCommand(thisRuntime(), "tests/unit/team_script.ts"),
  );
  assert.equal(code, 0, stderr);
  assert.equal(stdout, "3 threads\n");
});
