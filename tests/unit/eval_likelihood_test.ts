/** What evaluation asks a model, and what it makes of the answers: on models whose log-probabilities are known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { normalise } from "../../src/eval/divergence.ts";
import { type ChoiceResult, evaluateTask, parseTasks, type RowResult } from "../../src/eval/mod.ts";
import {
  type EvalPrefill,
  type Request,
  scoreRequests,
  sharedLength,
  sparseFromOf,
  type Subject,
  tokenizeRequest,
} from "../../src/eval/likelihood.ts";
import { scoreChoices } from "../../src/eval/multiple_choice.ts";
import { cutPieces, joinDocuments, measurePiece } from "../../src/eval/perplexity.ts";
import {
  FAKE_VOCAB,
  fakeModel,
  hashedLogits,
  logitsFor,
  type LogitsOf,
  type Position,
} from "../support/fake_model.ts";

const PREFILLS: readonly EvalPrefill[] = ["dense", "sparse", "official"];

function assertNear(actual: number | null | undefined, expected: number, bound = 1e-6): void {
  assert.ok(
    typeof actual === "number" && Math.abs(actual - expected) <= bound,
    `${actual} found, ${expected} wanted`,
  );
}

/** By the definition: each request alone, from its first token. */
function naiveScore(logitsOf: LogitsOf, { ids, start, sparseFrom }: Request): number {
  let sum = 0;
  const positions = ids.map((id, at) => ({ id, sparse: at >= sparseFrom }));
  for (let at = start; at < ids.length; at++) {
    const logits = logitsOf(positions.slice(0, at));
    sum += logits[ids[at]!]! - normalise(logits).logSum;
  }
  return sum;
}

function input(list: string, text: string): Parameters<typeof evaluateTask>[1] {
  const [{ task, name }] = parseTasks(list) as [ReturnType<typeof parseTasks>[0]];
  return { task, name, blob: new Blob([text]), file: "rows.jsonl" };
}

const lines = (...rows: unknown[]): string => rows.map((row) => JSON.stringify(row)).join("\n");

test("tokenizeRequest: one string, cut where the context's tokens end", () => {
  // "ab" is one token, so that a context and a continuation can grow together
  const merging: Subject = {
    ...fakeModel(hashedLogits, null, 6),
    encode: (text) => (text.match(/ab|[^]/g) ?? []).map((part) => part === "ab" ? 1 : part.charCodeAt(0)),
  };
  assert.deepEqual(tokenizeRequest(merging, "xy", " z"), { ids: [120, 121, 32, 122], start: 2 });
  // the context alone has 2 tokens, "x" and "a"; together the second is "ab"
  assert.deepEqual(tokenizeRequest(merging, "xa", "bz"), { ids: [120, 1, 122], start: 2 });
  // white space at the end of the context goes to the continuation
  assert.deepEqual(tokenizeRequest(merging, "x  ", " z"), { ids: [120, 32, 32, 32, 122], start: 1 });
  // 6 positions hold 7 tokens, the last of which never runs; more are cut from the left
  assert.deepEqual(tokenizeRequest(merging, "uvwxy", " z"), {
    ids: [117, 118, 119, 120, 121, 32, 122],
    start: 5,
  });
  assert.deepEqual(tokenizeRequest(merging, "tuvwxy", " z"), {
    ids: [117, 118, 119, 120, 121, 32, 122],
    start: 5,
  });
  assert.throws(() => tokenizeRequest(merging, "  ", "z"), /the context has no tokens/);
  assert.throws(() => tokenizeRequest(merging, "xa", "b"), /the continuation "b" has no tokens/);
  assert.throws(() => tokenizeRequest(merging, "x", "1234567"), /7 tokens, at most the context of 6/);
});

test("sparseFromOf: the table of docs/evaluation.md", () => {
  const request = (fed: number, start: number) => ({ ids: new Array<number>(fed + 1).fill(1), start });
  const dense = fakeModel(hashedLogits, null), sparse = fakeModel(hashedLogits, 1);
  for (const prefill of PREFILLS) assert.equal(sparseFromOf(dense, prefill, request(10, 4)), Infinity);
  assert.equal(sparseFromOf(sparse, "dense", request(10, 4)), 4);
  assert.equal(sparseFromOf(fakeModel(hashedLogits, 6), "dense", request(10, 4)), 6);
  assert.equal(sparseFromOf(sparse, "sparse", request(10, 4)), 1);
  for (const [fed, first] of [[10, 9], [37, 33], [100, 90], [2048, 1843]] as const) {
    assert.equal(sparseFromOf(sparse, "official", request(fed, 4)), first);
  }
});

test("sharedLength: as far as tokens and modes agree, and nothing is scored", () => {
  const request = (text: string, start: number, sparseFrom = Infinity): Request => ({
    ids: Array.from(text, (c) => c.charCodeAt(0)),
    start,
    sparseFrom,
  });
  assert.equal(sharedLength([request("abcd", 3)]), 3);
  assert.equal(sharedLength([request("abcd", 3), request("abce", 3)]), 3);
  assert.equal(sharedLength([request("abcd", 3), request("axcd", 3)]), 1);
  assert.equal(sharedLength([request("abcd", 3), request("abcd", 2)]), 2);
  assert.equal(sharedLength([request("abcd", 3, 1), request("abce", 3, 1)]), 3);
  assert.equal(sharedLength([request("abcd", 3, 1), request("abce", 3)]), 1);
  assert.equal(sharedLength([request("bbcd", 3), request("abcd", 3)]), 0);
});

for (const prefill of PREFILLS) {
  for (const keepDense of [null, 0, 1, 3]) {
    test(`scoreChoices: shared contexts change no score, prefill ${prefill}, keepDense ${keepDense}`, async () => {
      const rows = [
        {
          contexts: ["Question: who?\nAnswer:"],
          continuations: ["me", "you", "nobody at all", "y"],
          gold: 0,
        },
        { contexts: ["Ann saw Bo so Ann", "Ann saw Bo so Bo"], continuations: ["ran away."], gold: 1 },
        { contexts: ["x", "y"], continuations: ["z"], gold: 1 },
      ];
      for (const row of rows) {
        const model = fakeModel(hashedLogits, keepDense);
        const { scores, denseScores, gold, work } = await scoreChoices(model, model.session(), row, prefill);
        const count = Math.max(row.contexts.length, row.continuations.length);
        let sparse = 0, positions = 0;
        for (let i = 0; i < count; i++) {
          const context = row.contexts[i % row.contexts.length]!,
            request = tokenizeRequest(model, context, ` ${row.continuations[i % row.continuations.length]}`),
            sparseFrom = sparseFromOf(model, prefill, request);
          assertNear(scores[i], naiveScore(hashedLogits, { ...request, sparseFrom }), 1e-9);
          if (keepDense === null) assert.equal(denseScores, null);
          else {assertNear(
              denseScores![i],
              naiveScore(hashedLogits, { ...request, sparseFrom: Infinity }),
              1e-9,
            );}
          positions += request.ids.length - 1;
          sparse += request.ids.slice(0, -1).filter((_, at) => at >= sparseFrom).length;
        }
        assert.equal(gold, row.gold);
        assert.deepEqual([work.sparse, work.positions], [sparse, positions]);
        assert.equal(work.dense, 100 * model.ran[0]!.filter(({ sparse }) => sparse).length);
        assert.equal(work.kept, 60 * model.ran[0]!.filter(({ sparse }) => sparse).length);
      }
    });
  }
}

test("scoreChoices: a context runs once, and once for dense and sparse where it is dense in both", async () => {
  const row = { contexts: ["0123456789"], continuations: ["ab", "cde"], gold: 0 };
  const tokensRun = async (keepDense: number | null, prefill: EvalPrefill): Promise<number> => {
    const model = fakeModel(hashedLogits, keepDense);
    await scoreChoices(model, model.session(), row, prefill);
    return model.ran[0]!.length;
  };
  // 10 of the context, 2 and 3 of the answers " ab" and " cde" but for their last tokens
  assert.equal(await tokensRun(null, "sparse"), 10 + 2 + 3);
  assert.equal(await tokensRun(1, "dense"), 10 + 2 * (2 + 3));
  assert.equal(await tokensRun(1, "sparse"), 2 * (10 + 2 + 3));
});

test("scoreChoices: lengths in characters, not in UTF-16 units or bytes, one for each answer", async () => {
  const lengths = async (contexts: string[], continuations: string[]): Promise<readonly number[]> => {
    const model = fakeModel(() => new Float32Array(1 << 16), null);
    return (await scoreChoices(model, model.session(), { contexts, continuations, gold: 0 }, "sparse"))
      .lengths;
  };
  assert.deepEqual(await lengths(["q"], ["😀😀", "é", " two"]), [2, 1, 4]);
  // WinoGrande has one continuation for all
  assert.deepEqual(await lengths(["p", "q"], ["same"]), [4, 4]);
});

test("scoreRequests: greedy is the first of equals", async () => {
  const after = (positions: readonly Position[]): Float32Array =>
    positions.at(-1)!.id === 32 ? logitsFor({ a: 0.4, b: 0.4, c: 0.2 }) : logitsFor({ " ": 1 });
  const model = fakeModel(after, null),
    greedy = async (target: string): Promise<boolean> => {
      const request = { ...tokenizeRequest(model, "q", ` ${target}`), sparseFrom: Infinity };
      return (await scoreRequests(model.session(), [request]))[0]!.greedy;
    };
  assert.deepEqual([await greedy("a"), await greedy("b"), await greedy("c")], [true, false, false]);
});

test("evaluateTask: acc and accNorm by hand", async () => {
  // After the context a space is certain; then a 1/4, b 1/8, c 5/8; after b another b is certain.
  const after = (positions: readonly Position[]): Float32Array => {
    switch (String.fromCharCode(positions.at(-1)!.id)) {
      case " ":
        return logitsFor({ a: 1 / 4, b: 1 / 8, c: 5 / 8 });
      case "b":
        return logitsFor({ b: 1 });
      default:
        return logitsFor({ " ": 1 });
    }
  };
  // ln(1/4) > ln(1/8), but ln(1/4) / 1 < ln(1/8) / 2
  const row = { ctx: "q", choices: ["a", "bb"] };
  const text = lines({ ...row, gold: 0 }, { ...row, gold: 0 }, { ...row, gold: 1 }, { ...row, gold: 0 });
  const { result, rows } = await evaluateTask(fakeModel(after, null), input("piqa", text));
  const { scores } = rows[0] as ChoiceResult;
  assertNear(scores[0], Math.log(1 / 4));
  assertNear(scores[1], Math.log(1 / 8));
  assert.deepEqual(result, {
    name: "piqa",
    n: 4,
    sparseTokens: 0,
    measuredSparsity: null,
    complete: true,
    metrics: { acc: 0.75, accNorm: 0.25 },
    stderr: { acc: 0.25, accNorm: 0.25 },
  });
  const boolq = await evaluateTask(fakeModel(after, null), input("boolq", text), { limit: 2 });
  assert.deepEqual([boolq.result.n, boolq.result.metrics], [2, { acc: 1 }]);
});

test("evaluateTask: paired differences on the same rows", async () => {
  // sparse takes b where dense takes a
  const after = (positions: readonly Position[]): Float32Array => {
    const { id, sparse } = positions.at(-1)!;
    if (id !== 32) return logitsFor({ " ": 1 });
    return sparse ? logitsFor({ a: 0.25, b: 0.75 }) : logitsFor({ a: 0.75, b: 0.25 });
  };
  const golds = [0, 0, 0, 1, 0];
  const text = lines(...golds.map((gold) => ({ ctx: "q", choices: ["a", "b"], gold })));
  const { result } = await evaluateTask(fakeModel(after, 1), input("piqa", text), { prefill: "sparse" });
  assert.deepEqual(result.metrics, { acc: 0.2, accNorm: 0.2 });
  assert.deepEqual(result.dense!.metrics, { acc: 0.8, accNorm: 0.8 });
  const { difference, stderr, p, test, better, worse } = result.paired!["acc"]!;
  // differences -1 -1 -1 1 -1; 2 (1 + 5) / 32
  assertNear(difference, -0.6);
  assertNear(stderr, Math.sqrt((4 * 0.16 + 2.56) / 4 / 5));
  assertNear(p, 12 / 32);
  assert.deepEqual([test, better, worse], ["mcnemar", 1, 4]);
  // "q": dense, " ": sparse, in each of two requests
  assert.equal(result.sparseTokens, 0.5);
  assertNear(result.measuredSparsity, 0.4);
});

test("evaluateTask: LAMBADA's accuracy is greedy and whole, its perplexity one of words", async () => {
  // "xy": x 1/2 and best, then y 1/4 and not best, or 1
  const after = (positions: readonly Position[]): Float32Array => {
    const [first, last] = [positions[0]!.id, String.fromCharCode(positions.at(-1)!.id)];
    if (last === " ") return logitsFor({ x: 1 / 2, z: 1 / 4, w: 1 / 4 });
    if (last === "x") return logitsFor(first === "p".charCodeAt(0) ? { y: 1 } : { y: 1 / 4, z: 3 / 4 });
    return logitsFor({ " ": 1 });
  };
  const text = lines({ ctx: "p", target: "xy" }, { ctx: "q", target: "xy" });
  const { result } = await evaluateTask(fakeModel(after, null), input("lambada_openai", text));
  assert.equal(result.metrics["acc"], 0.5);
  // exp of the mean of ln 2 and ln 8
  assertNear(result.metrics["perplexity"], 4, 1e-5);
  // the two are ln 4 apart, so their mean's error is ln 4 / 2
  assertNear(result.stderr["perplexity"], 4 * Math.log(4) / 2, 1e-5);
});

test("cutPieces and joinDocuments: tails are kept, single tokens left out, documents read as needed", async () => {
  assert.deepEqual(cutPieces([1, 2, 3, 4, 5], 3), [[1, 2, 3], [4, 5]]);
  assert.deepEqual(cutPieces([1, 2, 3, 4], 3), [[1, 2, 3]]);
  assert.deepEqual(cutPieces([], 3), []);
  let read = 0;
  const encode = (text: string): number[] => {
    read++;
    return Array.from(text, Number);
  };
  assert.deepEqual(await joinDocuments(encode, ["12", "3"], { separator: 0 }), [1, 2, 0, 3, 0]);
  read = 0;
  assert.deepEqual(await joinDocuments(encode, ["12", "345", "6"], { separator: 9, most: 4 }), [1, 2, 9, 3]);
  assert.equal(read, 2);
});

test("evaluateTask: a uniform model's perplexity is its vocabulary", async () => {
  const uniform = (): Float32Array => new Float32Array(FAKE_VOCAB);
  const { result } = await evaluateTask(fakeModel(uniform, null), input("text:x", "abcdefghij"), {
    pieceLength: 4,
  });
  assertNear(result.metrics["perplexity"], 128, 1e-9);
  assertNear(result.stderr["perplexity"], 0, 1e-9);
  // a token is a byte here
  assertNear(result.metrics["bitsPerByte"], 7, 1e-9);
  assertNear(result.stderr["bitsPerByte"], 0, 1e-9);
  // pieces of 4, 4 and 2 tokens, the first of each not scored
  assert.deepEqual([result.n, result.tokens, result.pieceLength], [3, 7, 4]);
  const some = await evaluateTask(fakeModel(uniform, null), input("text:x", "abcdefghij"), {
    pieceLength: 4,
    limit: 2,
  });
  assert.deepEqual([some.result.n, some.result.tokens], [2, 6]);
  await assert.rejects(
    evaluateTask(fakeModel(uniform, null, 8), input("text:x", "abc"), { pieceLength: 9 }),
    /piece length: 9 found, 2 to 8 wanted/,
  );
  await assert.rejects(evaluateTask(fakeModel(uniform, null), input("text:x", "a")), /less than two tokens/);
  const documents = input("text:x", "ab\n<|endoftext|>\ncde\n");
  assert.equal((await evaluateTask(fakeModel(uniform, null), documents)).result.tokens, 6);
});

/** The definition of a piece's sums. */
function naivePiece(logitsOf: LogitsOf, ids: readonly number[], sparseFrom: number, context = 0) {
  const sums = { nll: 0, denseNll: 0, kl: 0, agree: 0 };
  for (let at = context + 1; at < ids.length; at++) {
    const before = (from: number): Position[] => ids.slice(0, at).map((id, i) => ({ id, sparse: i >= from }));
    const dense = logitsOf(before(Infinity)), own = logitsOf(before(sparseFrom));
    const p = normalise(dense), q = normalise(own);
    sums.denseNll += p.logSum - dense[ids[at]!]!;
    sums.nll += q.logSum - own[ids[at]!]!;
    dense.forEach((logit, id) =>
      sums.kl += Math.exp(logit - p.logSum) * (logit - p.logSum - own[id]! + q.logSum)
    );
    sums.agree += Number(p.best === q.best);
  }
  return sums;
}

for (const length of [2, 3, 128, 129, 130, 300, 1500]) {
  for (const prefill of PREFILLS) {
    test(`measurePiece: ${length} tokens, prefill ${prefill}: sums as by definition`, async () => {
      const ids = Array.from({ length }, (_, i) => (i * i * 7 + i) % FAKE_VOCAB);
      const model = fakeModel(hashedLogits, 1), own = model.session(), dense = model.session();
      const found = await measurePiece(model, { own, dense }, ids, { prefill });
      const sparseFrom = prefill === "official" ? Math.trunc(length * 0.9) : 1;
      const wanted = naivePiece(hashedLogits, ids, sparseFrom);
      assert.equal(found.tokens, length - 1);
      assertNear(found.nll, wanted.nll);
      assertNear(found.dense!.nll, wanted.denseNll);
      assertNear(found.dense!.kl, wanted.kl);
      assert.equal(found.dense!.agree, wanted.agree);
      assert.deepEqual([found.work.sparse, found.work.positions], [
        Math.max(0, length - 1 - sparseFrom),
        length - 1,
      ]);
      assert.equal(found.work.kept, 60 * found.work.sparse);
      if (prefill === "official" && length <= 1024) {
        assert.equal(model.ran[1]!.length, 0, "tokens that are dense in both ran once");
      }
      const alone = fakeModel(hashedLogits, null), session = alone.session();
      const plain = await measurePiece(alone, { own: session, dense: session }, ids, { prefill });
      assertNear(plain.nll, wanted.denseNll);
      assert.equal(plain.dense, null);
      assert.equal(alone.ran[0]!.length, length - 1);
    });
  }
}

for (const context of [1, 64, 127, 128, 200, 298]) {
  for (const prefill of ["dense", "sparse"] as const) {
    test(`measurePiece: 300 tokens after a context of ${context}, prefill ${prefill}: sums as by definition`, async () => {
      const ids = Array.from({ length: 300 }, (_, i) => (i * i * 7 + i) % FAKE_VOCAB);
      const model = fakeModel(hashedLogits, 1), own = model.session(), dense = model.session();
      const found = await measurePiece(model, { own, dense }, ids, { prefill, context });
      const sparseFrom = prefill === "dense" ? context : 1;
      const wanted = naivePiece(hashedLogits, ids, sparseFrom, context);
      assert.equal(found.tokens, 299 - context);
      assertNear(found.nll, wanted.nll);
      assertNear(found.dense!.nll, wanted.denseNll);
      assertNear(found.dense!.kl, wanted.kl);
      assert.equal(found.dense!.agree, wanted.agree);
      assert.equal(found.work.sparse, 299 - sparseFrom);
    });
  }
}

test("evaluateTask: a context that leaves nothing of a piece, and one that is none", async () => {
  const logits = (): Float32Array => logitsFor({ a: 1 / 2, b: 1 / 2 }), model = fakeModel(logits, null);
  const options = { pieceLength: 3, context: 1 };
  const { result } = await evaluateTask(model, input("text:x", "aaabbbab"), options);
  assert.deepEqual([result.n, result.tokens, result.context], [2, 2, 1]);
  for (const context of [-1, 0.5, 2]) {
    const bad = evaluateTask(model, input("text:x", "aaabbb"), { pieceLength: 3, context });
    await assert.rejects(bad, /^RangeError: context: .* 0 to 1 wanted/);
  }
  await assert.rejects(evaluateTask(model, input("text:x", "aa"), options), /less than 3 tokens/);
});

test("evaluateTask: KL, agreement and the paired test of a text by hand", async () => {
  const after = (positions: readonly Position[]): Float32Array =>
    positions.at(-1)!.sparse ? logitsFor({ a: 1 / 4, b: 3 / 4 }) : logitsFor({ a: 1 / 2, b: 1 / 2 });
  // pieces "aaa" and "bbb", whose first tokens are dense: 1 of 2 positions is sparse
  const { result } = await evaluateTask(fakeModel(after, 1), input("text:x", "aaabbb"), { pieceLength: 3 });
  assert.equal(result.sparseTokens, 0.5);
  assertNear(result.metrics["kl"], 0.25 * Math.log(4 / 3));
  assertNear(result.metrics["agreement"], 0.5);
  // ln 2 at dense positions, ln 4 and ln 4/3 at sparse ones
  assertNear(result.metrics["nll"], (2 * Math.log(2) + Math.log(4) + Math.log(4 / 3)) / 4);
  assertNear(result.dense!.metrics["perplexity"], 2);
  const { difference, p, test } = result.paired!["nll"]!;
  assertNear(difference, Math.log(4 / 3) / 4);
  // differences ln 2 and -ln 3/2: all four sums are at least as far as theirs
  assert.deepEqual([p, test], [1, "sign-flip"]);
});

test("evaluateTask: c4 puts token 0 after each document", async () => {
  const seen: number[] = [];
  const model = fakeModel((positions) => {
    seen.push(positions.at(-1)!.id);
    return new Float32Array(FAKE_VOCAB);
  }, null);
  await evaluateTask(model, input("c4", lines({ text: "ab" }, { text: "c" }, { text: "never" })), {
    pieceLength: 5,
    limit: 1,
  });
  // the last token, again 0, is scored and does not run
  assert.deepEqual(seen, [97, 98, 0, 99]);
});

test("evaluateTask: rows that are finished don't run again, and the figures are the same", async () => {
  const text = lines(...[0, 1, 1, 0, 1].map((gold, i) => ({ ctx: `q${i}`, choices: ["a", "bb"], gold })));
  const whole = await evaluateTask(fakeModel(hashedLogits, 1), input("piqa", text));
  for (const done of [0, 1, 4, 5]) {
    const model = fakeModel(hashedLogits, 1), rows: RowResult[] = [];
    const finished = JSON.parse(JSON.stringify(whole.rows.slice(0, done)));
    const onRow = (row: RowResult): void => void rows.push(row);
    const { result } = await evaluateTask(model, input("piqa", text), { finished, onRow });
    assert.deepEqual(result, whole.result);
    assert.deepEqual(rows, whole.rows.slice(done));
  }
});

test("evaluateTask: dense rows that are given don't run, and the figures are the same", async () => {
  const questions = lines(...[0, 1, 1, 0].map((gold, i) => ({ ctx: `q${i}`, choices: ["a", "bb"], gold })));
  const words = lines({ ctx: "once upon a", target: "time" }, { ctx: "in the", target: "zoo" });
  const articles = lines(
    ...["A ball.", "A cat."].map((summary) => ({ article: "Lily saw a ball.", summary })),
  );
  for (
    const [task, text] of [["piqa", questions], ["lambada_openai", words], ["xsum", articles], [
      "text:x",
      "some text of ours",
    ]] as const
  ) {
    const options = { pieceLength: 6, part: { number: 1, of: 2 } };
    const { rows: denseRows } = await evaluateTask(fakeModel(hashedLogits, null), input(task, text), options);
    const both = await evaluateTask(fakeModel(hashedLogits, 0), input(task, text), options);
    const model = fakeModel(hashedLogits, 0);
    const { result } = await evaluateTask(model, input(task, text), { ...options, denseRows });
    assert.ok(model.ran.flat().every(({ sparse }) => sparse), task);
    const { kl, agreement, ...metrics } = both.result.metrics,
      { kl: _, agreement: __, ...stderr } = both.result.stderr;
    assert.equal(kl !== undefined && agreement !== undefined, task === "text:x");
    assert.deepEqual(result, { ...both.result, metrics, stderr });
    await assert.rejects(
      evaluateTask(fakeModel(hashedLogits, 0), input(task, text), {
        ...options,
        denseRows: denseRows.slice(1),
      }),
      RangeError,
    );
  }
  const rows = async (text: string): Promise<readonly RowResult[]> =>
    (await evaluateTask(fakeModel(hashedLogits, null), input("text:x", text), { pieceLength: 6 })).rows;
  await assert.rejects(
    evaluateTask(fakeModel(hashedLogits, 0), input("text:x", "longer"), {
      pieceLength: 6,
      denseRows: await rows("short"),
    }),
    /the dense run scored 4 tokens, 5 wanted/,
  );
});

test("evaluateTask: a signal ends it, what is done is returned", async () => {
  const text = lines(...[0, 1, 1].map((gold) => ({ ctx: "q", choices: ["a", "bb"], gold })));
  const controller = new AbortController(), { signal } = controller;
  const { result, rows } = await evaluateTask(fakeModel(hashedLogits, null), input("piqa", text), {
    signal,
    onRow: (_, done) => done === 2 ? controller.abort() : undefined,
  });
  assert.deepEqual([result.complete, result.n, rows.length], [false, 2, 2]);
  // in the middle of a row, which is not counted then
  const late = new AbortController();
  let calls = 0;
  const stopping = fakeModel((positions) => {
    if (++calls === 9) late.abort();
    return hashedLogits(positions);
  }, 1);
  const cut = await evaluateTask(stopping, input("piqa", text), { signal: late.signal });
  assert.deepEqual([cut.result.complete, cut.result.n, calls < 20], [false, 1, true]);
  const none = await evaluateTask(fakeModel(hashedLogits, null), input("piqa", text), { signal });
  assert.deepEqual([none.result.n, none.result.metrics], [0, { acc: null, accNorm: null }]);
});

test("evaluateTask: a row that can't run is told with its line", async () => {
  const text = lines({ ctx: "q", choices: ["a", "b"], gold: 0 }, {
    ctx: "q",
    choices: ["a", "b".repeat(20)],
    gold: 0,
  });
  await assert.rejects(
    evaluateTask(fakeModel(hashedLogits, null, 16), input("piqa", text)),
    /Cannot evaluate line 2 of rows\.jsonl: the continuation has 21 tokens, at most the context of 16/,
  );
  await assert.rejects(
    evaluateTask(fakeModel(hashedLogits, null), input("piqa", text), { limit: 0 }),
    /limit: 0 found, at least 1 wanted/,
  );
});
