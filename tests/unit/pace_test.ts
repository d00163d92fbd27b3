import assert from "node:assert/strict";
import { test } from "node:test";
import { Pace } from "../../src/kernels/pace.ts";

/** Runs `units` units that take what `cost` says, and counts what they took and how often they were shared. */
function run(pace: Pace, units: number, cost: (together: boolean, unit: number) => number) {
  let ms = 0, shared = 0;
  for (let unit = 0; unit < units; unit++) {
    const took = cost(pace.together, unit);
    ms += took;
    shared += pace.together ? 1 : 0;
    pace.note(took, 1);
  }
  return { ms, shared };
}

test("Pace: shares what threads make faster, but for a look at the other way now and then", () => {
  const { shared } = run(new Pace(), 1000, (together) => together ? 6 : 10);
  assert.ok(shared >= 985, `${shared} of 1000 units`);
});

test("Pace: does alone what threads make slower, at a cost below a fifth of 64 units", () => {
  const { ms, shared } = run(new Pace(), 64, (together) => together ? 25 : 10);
  assert.ok(shared <= 6, `${shared} of 64 units`);
  assert.ok(ms <= 64 * 10 / 0.8, `${ms} ms`);
  const longer = run(new Pace(), 10_000, (together) => together ? 100 : 10);
  assert.ok(longer.ms <= 1.03 * 100_000, `${longer.ms} ms`);
});

test("Pace: a gain below 5 % changes nothing, and one unit that took long neither", () => {
  const pace = new Pace();
  run(pace, 20, (together) => together ? 6 : 10);
  const { shared } = run(pace, 30, (_, unit) => unit === 10 ? 500 : 6);
  assert.equal(shared, 30);
  const equal = run(new Pace(), 60, (together) => together ? 10 : 9.8);
  assert.ok(equal.shared > 50, `${equal.shared} of 60 units`);
});

test("Pace: notices within some units that a core was taken, and later that it is free", () => {
  const pace = new Pace();
  run(pace, 3000, (together) => together ? 6 : 10);
  const taken = run(pace, 40, (together) => together ? 20 : 10);
  assert.ok(taken.shared <= 8, `${taken.shared} of 40 units`);
  run(pace, 40, (together) => together ? 20 : 10);
  const free = run(pace, 400, (together) => together ? 6 : 10);
  assert.ok(free.shared >= 200, `${free.shared} of 400 units`);
});

test("Pace: units of different size compare by their work", () => {
  const pace = new Pace();
  for (let unit = 0; unit < 500; unit++) {
    const work = 1 + unit % 7;
    pace.note(work * (pace.together ? 6 : 10), work);
  }
  assert.equal(pace.together, true);
});
