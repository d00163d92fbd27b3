/** One sequence and several of a tiny model: positions, pages and errors. What its logits should be, tests/golden says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { calibrateModel } from "../../src/calibrate/calibrate.ts";
import { type Branch, ContextError, Model, type Session } from "../../src/mod.ts";
import { largestError, recipeOfThreshold } from "../support/golden.ts";
import { assertSameBits } from "../support/kernels.ts";
import { requireShared, skipWithout } from "../support/shared.ts";

const FILE = "golden/tiny/llama-f32.gguf";
const skip = skipWithout(FILE);
const VOCAB = 320;
const CONTEXT = 512;
const PAGE = 64;

/** f32 sums in another order; logits are about +-10. */
const REORDERED = 1e-4;

function open(file: string = FILE, options: Parameters<typeof Model.load>[1] = {}): Promise<Model> {
  return Model.load(requireShared(file), { kernels: "baseline", threads: 1, ...options });
}

/** `n` ids that depend on the position and on `seed`. */
function someIds(n: number, seed: number = 1): number[] {
  return Array.from({ length: n }, (_, i) => (i * i * 7 + i * 31 * seed + seed) % VOCAB);
}

/** The logits after `ids`, in a session of their own. */
function fresh(model: Model, ids: readonly number[]): Float32Array {
  using session = model.session();
  return session.prefill(ids);
}

function assertNear(actual: Float32Array, expected: Float32Array, what: string): void {
  const error = largestError(actual, expected);
  assert.ok(error <= REORDERED, `${what}: a logit is off by ${error}, more than ${REORDERED}`);
}

function decodeAll(session: Session, ids: readonly number[]): Float32Array {
  let logits: Float32Array = new Float32Array(0);
  for (const id of ids) logits = session.decode(id);
  return logits;
}

// A page is 64 positions, a pass takes 128 tokens.
for (const n of [1, 2, 63, 64, 65, 127, 128, 129, 200, 257, 512]) {
  test(`Session: ${n} tokens give the same logits however they are cut`, { skip }, async () => {
    const model = await open(), ids = someIds(n);
    using byOne = model.session();
    const expected = decodeAll(byOne, ids);
    assertNear(fresh(model, ids), expected, "prefill");
    let last: Float32Array = new Float32Array(0), rows = 0;
    using all = model.session();
    all.prefillAll(ids, (index, logits) => {
      assert.equal(index, rows++);
      last = logits.slice();
    });
    assert.equal(rows, n);
    assertNear(last, expected, "prefillAll");
    for (const cut of new Set([1, 63, 64, 65, 128, n - 1].filter((at) => at > 0 && at < n))) {
      using session = model.session();
      session.advance(ids.slice(0, cut));
      assert.equal(session.length, cut);
      assertNear(session.prefill(ids.slice(cut)), expected, `advance ${cut}, prefill the rest`);
      assert.deepEqual(session.tokens, ids);
    }
  });
}

test("Session.truncate: what follows is as if the rest had never been", { skip }, async () => {
  const model = await open(), ids = someIds(150), rest = someIds(20, 3);
  for (const kept of [0, 1, 63, 64, 65, 128, 149, 150]) {
    using plain = model.session();
    if (kept > 0) plain.advance(ids.slice(0, kept));
    const expected = plain.prefill(rest);

    using session = model.session();
    if (kept > 0) session.advance(ids.slice(0, kept));
    session.advance(someIds(150, 5));
    session.truncate(kept);
    assert.equal(session.length, kept);
    // takes the pages that were given back, and writes to them
    using other = model.session();
    other.advance(someIds(150, 7));
    assertSameBits(session.prefill(rest), expected, `${kept} kept`);
    assert.deepEqual(session.tokens, [...ids.slice(0, kept), ...rest]);
  }
});

test("Session.truncate: gives pages back", { skip }, async () => {
  const model = await open();
  using session = model.session();
  session.advance(someIds(4 * PAGE));
  const { kvBytes } = model.memory;
  session.truncate(PAGE);
  using other = model.session();
  other.advance(someIds(3 * PAGE));
  assert.equal(model.memory.kvBytes, kvBytes);
  other.decode(1);
  assert.equal(model.memory.kvBytes, kvBytes / 4 * 5);
});

test("Model.load: kv bf16 takes half the memory, and moves logits no further than 8 bits of k and v can", {
  skip,
}, async () => {
  const whole = await open(), half = await open(FILE, { kv: "bf16" }), ids = someIds(3 * PAGE - 5);
  const expected = fresh(whole, ids), error = largestError(fresh(half, ids), expected);
  assert.equal(half.memory.kvBytes, whole.memory.kvBytes / 2);
  // logits are about +-10
  assert.ok(error > 0 && error <= 0.15, `a logit is off by ${error}`);
  using session = half.session();
  session.prefill(ids.slice(0, PAGE - 1));
  assertNear(decodeAll(session, ids.slice(PAGE - 1)), fresh(half, ids), "prefill and decode");
});

test("Session.truncate: refuses what the session has not got", { skip }, async () => {
  const model = await open();
  using session = model.session();
  session.advance(someIds(5));
  for (const n of [-1, 6, 1.5, NaN]) assert.throws(() => session.truncate(n), RangeError, String(n));
  assert.equal(session.length, 5);
});

for (const sparse of [false, true]) {
  const what = sparse ? "sparse, in int8 and int4" : "in f32";
  test(`Session: three that take turns do not disturb each other, ${what}`, { skip }, async () => {
    const file = sparse ? "golden/tiny/llama-mixed.gguf" : FILE;
    const recipe = sparse ? await recipeOfThreshold(await open(file), 0) : undefined;
    const model = await open(file, { recipe });
    const prompts = [someIds(3, 2), someIds(130, 3), someIds(64, 4)];
    const alone = prompts.map((prompt, i) => {
      using session = model.session();
      const logits = [session.prefill(prompt, { prefill: "sparse" })];
      for (const id of someIds(70, 10 + i)) logits.push(session.decode(id));
      return logits;
    });
    const sessions = prompts.map(() => model.session());
    const check = (i: number, step: number, logits: Float32Array): void =>
      assertSameBits(logits, alone[i]![step]!, `session ${i}, step ${step}`);
    sessions.forEach((session, i) => check(i, 0, session.prefill(prompts[i]!, { prefill: "sparse" })));
    for (let step = 1; step <= 70; ++step) {
      sessions.forEach((session, i) => check(i, step, session.decode(someIds(70, 10 + i)[step - 1]!)));
    }
    for (const session of sessions) session.close();
  });
}

test("Session: logits that were handed out stay as they are", { skip }, async () => {
  const model = await open();
  using session = model.session();
  const first = session.prefill(someIds(9)), copy = first.slice();
  const second = session.decode(7), secondCopy = second.slice();
  session.advance(someIds(300, 2));
  assertSameBits(first, copy, "of prefill");
  assertSameBits(second, secondCopy, "of decode");
});

test("Session: more tokens than the context holds are refused before anything runs", { skip }, async () => {
  const model = await open();
  using session = model.session();
  assert.throws(() => session.prefill(someIds(CONTEXT + 1)), (error) => {
    assert.ok(error instanceof ContextError);
    assert.equal(error.excess, 1);
    assert.match(error.message, /513 tokens, 1 more than the context of 512/);
    return true;
  });
  assert.equal(session.length, 0);
  assert.equal(model.memory.kvBytes, 0);
  session.advance(someIds(CONTEXT - 2));
  const kv = model.memory.kvBytes;
  assert.throws(() => session.advance([1, 2, 3]), ContextError);
  assert.throws(() => session.prefillAll([1, 2, 3], () => assert.fail("it ran")), ContextError);
  assert.equal(session.length, CONTEXT - 2);
  const full = session.prefill([1, 2]);
  assert.throws(() => session.decode(1), ContextError);
  assert.equal(session.length, CONTEXT);
  assert.equal(model.memory.kvBytes, kv);
  assertNear(full, fresh(model, [...someIds(CONTEXT - 2), 1, 2]), "after the refusals");
});

test("Model.load: contextLength is a limit, from 1 to the model's own", { skip }, async () => {
  const model = await open(FILE, { contextLength: 10 });
  using session = model.session();
  session.advance(someIds(10));
  assert.throws(() => session.decode(1), ContextError);
  for (const contextLength of [0, -1, 1.5, NaN, CONTEXT + 1]) {
    await assert.rejects(open(FILE, { contextLength }), RangeError, String(contextLength));
  }
});

test("Session: ids that the model has not got are refused before anything runs", { skip }, async () => {
  const model = await open();
  using session = model.session();
  session.advance(someIds(4));
  for (const id of [-1, VOCAB, 1.5, NaN, Infinity, 2 ** 32]) {
    assert.throws(() => session.prefill([...someIds(150), id]), RangeError, String(id));
    assert.throws(() => session.decode(id), RangeError, String(id));
  }
  assert.throws(() => session.prefill([]), RangeError);
  assert.equal(session.length, 4);
  assert.equal(session.count.tokens, 4);
});

test("Session: a caller that stops a prompt half way may go on from there", { skip }, async () => {
  const model = await open(), ids = someIds(300);
  using session = model.session();
  const seen: [number, number][] = [];
  assert.throws(() =>
    session.advance(ids, {
      onChunk: (done, total) => {
        seen.push([done, total]);
        if (done === 256) throw new Error("enough");
      },
    }), /enough/);
  assert.deepEqual(seen, [[128, 300], [256, 300]]);
  assert.equal(session.length, 256);
  assertSameBits(session.prefill(ids.slice(256)), fresh(model, ids), "the rest");
});

test("Session.close: twice is once, and nothing runs after it", { skip }, async () => {
  const model = await open();
  const closed = model.session();
  closed.advance(someIds(3));
  closed.close();
  closed.close();
  assert.throws(() => closed.decode(1), /the session is closed/);
  assert.throws(() => closed.prefill([1]), /the session is closed/);
  // a page given back twice would be in both
  using a = model.session();
  using b = model.session();
  a.advance(someIds(5));
  b.advance(someIds(5, 2));
  assertSameBits(a.prefill(someIds(3)), fresh(model, [...someIds(5), ...someIds(3)]), "a");
});

test("Session.close: pages serve the next session, and memory does not grow", { skip }, async () => {
  const model = await open();
  let first = 0;
  for (let i = 0; i < 2000; ++i) {
    using session = model.session();
    session.decode(i % VOCAB);
    if (i % 500 === 0) session.advance(someIds(4 * PAGE - 1));
    if (i === 0) first = model.memory.wasmBytes;
  }
  assert.equal(model.memory.wasmBytes, first);
  // 2 layers, keys and values, 2 heads of 16 floats
  assert.equal(model.memory.kvBytes, 4 * PAGE * (2 * 2 * 2 * 16 * 4));
});

test("Model.close: nothing runs after it", { skip }, async () => {
  const model = await open();
  using session = model.session();
  session.advance([1]);
  await model.close();
  await model.close();
  assert.throws(() => session.decode(1), /the model is closed/);
  assert.throws(() => model.session(), /the model is closed/);
});

test("Model.load: an aborted signal ends it", { skip }, async () => {
  await assert.rejects(open(FILE, { signal: AbortSignal.abort() }), { name: "AbortError" });
  const abort = new AbortController();
  let calls = 0;
  const loading = open(FILE, {
    signal: abort.signal,
    onProgress: () => {
      ++calls;
      abort.abort();
    },
  });
  await assert.rejects(loading, { name: "AbortError" });
  assert.equal(calls, 1);
});

test("Session.prefillAsync, decodeAsync: as prefill and decode; passes of two sessions take their turns", {
  skip,
}, async () => {
  await using model = await open();
  const ids = Array.from({ length: 200 }, (_, i) => 4 + (i * 7) % 300);
  const wanted = model.session(), prompt = wanted.prefill(ids), next = wanted.decode(9);
  const a = model.session(), b = model.session();
  const both = await Promise.all([a.prefillAsync(ids), b.prefillAsync(ids), b.decodeAsync(9)]);
  assert.deepEqual(both, [prompt, prompt, next]);
  assert.deepEqual([a.length, b.length], [200, 201]);
});

/** Logits after each token of a branch, by a session of its own. */
function branchAlone(model: Model, before: readonly number[], branch: Branch): Float32Array[] {
  using session = model.session();
  session.advance(before, { prefill: branch.sparseFrom });
  const rows: Float32Array[] = [];
  session.prefillAll(branch.ids, (_, logits) => rows.push(logits.slice()), { prefill: branch.sparseFrom });
  return rows;
}

for (const length of [1, 63, 64, 65, 200]) {
  for (const sparse of [false, true]) {
    const what = `after ${length} tokens${sparse ? ", sparse" : ""}`;
    test(`Session.branchAsync: each as if it alone came next, ${what}`, { skip }, async () => {
      const recipe = sparse ? await recipeOfThreshold(await open(), 0.5) : undefined;
      await using model = await open(FILE, { recipe });
      const before = someIds(length, 2);
      // some sparse before they begin, some nowhere, some from their middle on; more than a pass in all
      const branches: Branch[] = [5, 1, 130, 64, 2, 7].map((n, i) => ({
        ids: someIds(n, 3 + i),
        from: i === 3 ? 60 : 0,
        sparseFrom: !sparse ? Infinity : i === 5 ? length + 3 : i % 2 === 0 ? length : Infinity,
      }));
      using session = model.session();
      session.advance(before);
      const found = branches.map((): Float32Array[] => []);
      await session.branchAsync(branches, (branch, index, logits) => {
        assert.equal(index, branches[branch]!.from + found[branch]!.length);
        found[branch]!.push(logits.slice());
      });
      for (const [i, branch] of branches.entries()) {
        const wanted = branchAlone(model, before, branch).slice(branch.from);
        assert.equal(found[i]!.length, wanted.length);
        wanted.forEach((logits, t) => assertNear(found[i]![t]!, logits, `branch ${i}, token ${t}`));
        // whatever runs beside it, the bits are the same
        const alone: Float32Array[] = [];
        await session.branchAsync([branch], (_, __, logits) => void alone.push(logits.slice()));
        alone.forEach((logits, t) => assertSameBits(logits, found[i]![t]!, `branch ${i} alone, token ${t}`));
      }
      // and the session goes on as if nothing had been
      assert.deepEqual(session.tokens, before);
      assertSameBits(session.decode(9), branchlessDecode(model, before), "the session");
      if (sparse) assert.ok(session.count.sparseTokens >= 2 * (5 + 130 + 2 + 4));
      else assert.equal(session.count.sparseTokens, 0);
    });
  }
}

test(
  "Session.branchAsync: on bytes too a branch has the same bits alone and among others",
  { skip },
  async () => {
    const file = "golden/tiny/llama-mixed.gguf", recipe = await recipeOfThreshold(await open(file), 0.5);
    for (const kernels of ["baseline", "auto"] as const) {
      await using model = await open(file, { recipe, kernels });
      using session = model.session();
      session.advance(someIds(70));
      const branches = [1, 3, 1, 2].map((n, i) => ({
        ids: someIds(n, 3 + i),
        from: 0,
        sparseFrom: i < 2 ? 70 : Infinity,
      }));
      const run = async (some: readonly Branch[]): Promise<Float32Array[]> => {
        const rows: Float32Array[] = [];
        await session.branchAsync(some, (_, __, logits) => void rows.push(logits.slice()));
        return rows;
      };
      // dense ones run first
      const together = await run(branches), order = [branches[2]!, branches[3]!, branches[0]!, branches[1]!];
      const alone: Float32Array[] = [];
      for (const branch of order) alone.push(...await run([branch]));
      assert.equal(alone.length, together.length);
      alone.forEach((logits, i) => assertSameBits(logits, together[i]!, `${kernels}, row ${i}`));
    }
  },
);

test(
  "Session.branchAsync: neurons that the sequence picks are as if the branch alone came next",
  { skip },
  async () => {
    const text = "some text of no importance", source = "none";
    const recipe = await calibrateModel(await open(), { text, source, method: "griffin", sparsity: 0.3 });
    await using model = await open(FILE, { recipe });
    const before = someIds(70, 2);
    using session = model.session();
    session.advance(before);
    // dense positions of one must not pick for another
    const branches = [Infinity, 70, 73, 70].map((sparseFrom, i) => ({
      ids: someIds(i === 2 ? 140 : 6, 3 + i),
      from: 0,
      sparseFrom,
    }));
    const found = branches.map((): Float32Array[] => []);
    for (let twice = 0; twice < 2; twice++) {
      for (const rows of found) rows.length = 0;
      await session.branchAsync(branches, (branch, _, logits) => void found[branch]!.push(logits.slice()));
    }
    for (const [i, branch] of branches.entries()) {
      using alone = model.session();
      alone.advance(before);
      alone.prefillAll(
        branch.ids,
        (t, logits) => assertNear(found[i]![t]!, logits, `branch ${i}, token ${t}`),
        { prefill: branch.sparseFrom },
      );
    }
  },
);

function branchlessDecode(model: Model, before: readonly number[]): Float32Array {
  using session = model.session();
  session.advance(before);
  return session.decode(9);
}

test(
  "Session.branchAsync: refuses what can't run, gives pages back also when it is given up",
  { skip },
  async () => {
    await using model = await open();
    using session = model.session();
    const branch = (ids: readonly number[]): Branch => ({ ids, from: 0, sparseFrom: Infinity });
    const run = (...branches: Branch[]): Promise<void> => session.branchAsync(branches, () => {});
    await assert.rejects(run(branch([1])), /no tokens to branch from/);
    session.advance(someIds(100));
    await assert.rejects(run(branch([])), /a branch needs at least one/);
    await assert.rejects(run(branch([1]), branch([VOCAB])), /token 320/);
    await assert.rejects(run(branch([1]), branch(someIds(CONTEXT - 99))), ContextError);
    await run(branch(someIds(CONTEXT - 100)), branch([1]));
    const { kvBytes } = model.memory;
    for (let i = 0; i < 10; i++) {
      const error = new Error("enough"), abort = new AbortController();
      const branches = [branch(someIds(CONTEXT - 100)), branch(someIds(3))];
      const stopped = session.branchAsync(branches, () => abort.abort(error), { signal: abort.signal });
      await assert.rejects(stopped, error);
      await assert.rejects(
        session.branchAsync(branches, () => {
          throw error;
        }),
        error,
      );
      await run(...branches);
    }
    assert.equal(model.memory.kvBytes, kvBytes);
    assertSameBits(session.decode(9), branchlessDecode(model, someIds(100)), "the session");
  },
);

test(
  "Session.prefillAsync: one that is aborted or closed meanwhile keeps whole chunks, or nothing",
  { skip },
  async () => {
    await using model = await open();
    const ids = Array.from({ length: 200 }, (_, i) => 4 + (i * 7) % 300), abort = new AbortController();
    const session = model.session(),
      observe = (layer: number): void => {
        if (layer === 1 && session.length === 128) abort.abort(new Error("enough"));
      };
    await assert.rejects(session.prefillAsync(ids, { signal: abort.signal, observe }), /enough/);
    assert.equal(session.length, 128);
    assert.equal(session.prefill([5]).length, model.config.vocabSize);
    const busy = session.prefillAsync([5], {
      observe: () => {
        assert.throws(() => session.truncate(0), /wait for it/);
        assert.throws(() => session.decode(5), /a pass of this model is running/);
        session.close();
      },
    });
    await assert.rejects(busy, /the session is closed/);
    assert.equal(session.length, 0);
    assert.equal(model.session().prefill([5]).length, model.config.vocabSize);
  },
);
