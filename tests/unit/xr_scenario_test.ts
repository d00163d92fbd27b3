/** Scenarios, hardware and the harness's own files: what is read, and that every fault is named by its place. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FormatError, XrError } from "../../src/errors.ts";
import {
  builtinHardware,
  builtinModels,
  builtinScenario,
  builtinScenarios,
  compareNames,
  costsOf,
  parseHardware,
  parseScenario,
  readMScenario,
  withProbability,
} from "../../src/xr/mod.ts";
import { Random } from "../support/kernels.ts";

const A = { name: "A", fps: 30 }, B = { name: "B", fps: 30, dependencies: ["A"] };
const LAYER = { type: "CONV", N: 1, K: 8, C: 3, Y: 32, X: 24, R: 3, S: 3 };

test("parseScenario: what is left out has its default, and the file's name is the id", () => {
  assert.deepEqual(parseScenario({ models: [A, { ...B, probability: 0.5 }] }, "some/folder/mine.json"), {
    id: "mine",
    name: "mine",
    durationMs: 700,
    models: [
      { name: "A", fps: 30, probability: 1, dependencies: [] },
      { name: "B", fps: 30, probability: 0.5, dependencies: ["A"] },
    ],
  });
  const full = {
    id: "x",
    name: "X",
    durationMs: 1000,
    models: [{ ...A, cost: { latencyMs: 1, energyMJ: 2 }, layers: [LAYER] }],
  };
  const { id, durationMs, models } = parseScenario(full);
  assert.deepEqual([id, durationMs, models[0]!.cost, models[0]!.layers], ["x", 1000, {
    latencyMs: 1,
    energyMJ: 2,
  }, [LAYER]]);
  const { N: _, ...alone } = LAYER;
  assert.equal(parseScenario({ models: [{ ...A, layers: [alone] }] }).models[0]!.layers![0]!.N, 1);
});

/** What is wrong, and how the message goes on after the file's name. */
const BAD: readonly [unknown, RegExp][] = [
  [null, /^null found, an object with a list of models wanted/],
  [[], /^a list of 0 found/],
  ["text", /^"text" found/],
  [{}, /^models: nothing found, it is required/],
  [{ models: [] }, /^models: a list of 0 found, 1 to 64 models/],
  [{ models: {} }, /^models: an object found/],
  [{ models: [A, 7] }, /^models\[1\]: 7 found, an object with name and fps wanted/],
  [{ models: [{ name: "A" }] }, /^models\[0\]\.fps: nothing found/],
  [{ models: [{ fps: 30 }] }, /^models\[0\]\.name: nothing found/],
  [{ models: [{ name: "A", fps: 0 }] }, /^models\[0\]\.fps: 0 found, frames a second, above 0/],
  [{ models: [{ name: "A", fps: -30 }] }, /^models\[0\]\.fps: -30 found/],
  [{ models: [{ name: "A", fps: NaN }] }, /^models\[0\]\.fps: null found/],
  [{ models: [{ name: "A", fps: Infinity }] }, /^models\[0\]\.fps: null found/],
  [{ models: [{ name: "A", fps: 1001 }] }, /^models\[0\]\.fps: 1001 found, .*at most 1000/],
  [{ models: [{ name: "A", fps: "30" }] }, /^models\[0\]\.fps: "30" found/],
  [{ models: [{ name: "", fps: 30 }] }, /^models\[0\]\.name: "" found/],
  [{ models: [{ name: "a,b", fps: 30 }] }, /^models\[0\]\.name: "a,b" found, .*comma/],
  [{ models: [{ name: "a\nb", fps: 30 }] }, /^models\[0\]\.name: "a\\nb" found/],
  [{ models: [A, A] }, /^models\[1\]\.name: "A" found, which models\[0\] has/],
  [{ models: [{ ...A, probability: 1.5 }] }, /^models\[0\]\.probability: 1\.5 found/],
  [{ models: [{ ...A, probability: -0.5 }] }, /^models\[0\]\.probability: -0\.5 found/],
  [{ models: [{ ...A, fsp: 3 }] }, /^models\[0\]\.fsp: no such field is known/],
  [{ models: [A], "a/b~c d": 1 }, /^\["a\/b~c d"\]: no such field is known/],
  [JSON.parse('{"models":[{"name":"A","fps":1}],"__proto__":1}'), /^__proto__: no such field/],
  [{ models: [A], constructor: 1 }, /^constructor: no such field/],
  [{ models: [A], "\ud800": 1 }, /half a character/],
  [{ models: [A], durationMs: 0 }, /^durationMs: 0 found, milliseconds, above 0/],
  [{ models: [A], durationMs: 1e9 }, /^durationMs: 1000000000 found/],
  [{ models: [{ ...A, dependencies: "B" }] }, /^models\[0\]\.dependencies: "B" found/],
  [
    { models: [A, { ...B, dependencies: ["C"] }] },
    /^models\[1\]\.dependencies\[0\]: no model "C" here: one of A, B wanted/,
  ],
  [
    { models: [A, { ...B, dependencies: ["__proto__"] }] },
    /^models\[1\]\.dependencies\[0\]: no model "__proto__"/,
  ],
  [
    { models: [A, { ...B, dependencies: ["A", "A"] }] },
    /^models\[1\]\.dependencies\[1\]: "A" found a second time/,
  ],
  [{ models: [A, { ...B, dependencies: ["B"] }] }, /^models\[1\]\.dependencies\[0\]: "B" depends on itself/],
  [
    { models: [{ ...A, dependencies: ["C"] }, B, { name: "C", fps: 30, dependencies: ["B"] }] },
    /^models\[0\]\.dependencies: a circle found: A needs C needs B needs A/,
  ],
  // Z is above the circle, not in it
  [
    { models: [{ name: "Z", fps: 30 }, { ...A, dependencies: ["Z", "B"] }, B] },
    /^models\[1\]\.dependencies: a circle found: A needs B needs A/,
  ],
  // D is below the circle, not in it
  [
    {
      models: [
        { name: "D", fps: 30, dependencies: ["A"] },
        { ...A, dependencies: ["B"] },
        B,
      ],
    },
    /^models\[1\]\.dependencies: a circle found: A needs B needs A/,
  ],
  [
    { models: [{ ...A, cost: { latencyMs: -1, energyMJ: 0 } }] },
    /^models\[0\]\.cost\.latencyMs: -1 found, milliseconds/,
  ],
  [{ models: [{ ...A, cost: {} }] }, /^models\[0\]\.cost\.latencyMs: nothing found/],
  [
    { models: [{ ...A, layers: [{ ...LAYER, K: -8 }] }] },
    /^models\[0\]\.layers\[0\]\.K: -8 found, a whole number of at least 1/,
  ],
  [{ models: [{ ...A, layers: [LAYER, { ...LAYER, S: 0 }] }] }, /^models\[0\]\.layers\[1\]\.S: 0 found/],
  [{ models: [{ ...A, layers: [{ ...LAYER, C: 1.5 }] }] }, /^models\[0\]\.layers\[0\]\.C: 1\.5 found/],
  [
    { models: [{ ...A, layers: [{ ...LAYER, type: "POOL" }] }] },
    /^models\[0\]\.layers\[0\]\.type: "POOL" found, CONV, DSCONV/,
  ],
  [
    { models: Array.from({ length: 65 }, (_, i) => ({ name: `m${i}`, fps: 1 })) },
    /^models: a list of 65 found, 1 to 64/,
  ],
];

for (const [i, [value, pattern]] of BAD.entries()) {
  test(`parseScenario: bad scenario ${i}: ${pattern.source}`, () => {
    assert.throws(() => parseScenario(value, "bad.json"), (error) => {
      assert.ok(error instanceof XrError);
      assert.equal(error.code, "scenario");
      const start = "Cannot read scenario bad.json: ";
      assert.ok(error.message.startsWith(start), error.message);
      assert.match(error.message.slice(start.length), pattern);
      return true;
    });
  });
}

test("parseScenario: whatever a value is changed into, it is read or refused", () => {
  const random = new Random(5);
  const pick = <T>(list: readonly T[]): T => list[random.below(list.length)]!;
  const values = [
    null,
    true,
    -1,
    0,
    0.5,
    1e308,
    NaN,
    "",
    "A",
    [],
    {},
    [[]],
    { models: 1 },
    "\ud800",
    undefined,
  ];
  const change = (value: unknown): unknown => {
    if (random.below(6) === 0) return pick(values);
    if (Array.isArray(value)) return value.map(change);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(
      Object.entries(value).map((
        [name, inner],
      ) => [random.below(20) === 0 ? pick(["x", "__proto__", "fps"]) : name, change(inner)]),
    );
  };
  const whole = {
    id: "x",
    durationMs: 100,
    models: [{ ...A, layers: [LAYER] }, { ...B, probability: 0.5, cost: { latencyMs: 1, energyMJ: 1 } }],
  };
  let read = 0;
  for (let i = 0; i < 2000; ++i) {
    try {
      parseScenario(change(whole));
      read++;
    } catch (error) {
      if (!(error instanceof XrError)) throw error;
    }
  }
  assert.ok(read > 0 && read < 2000, `${read}`);
});

test("withProbability: models with a dependency only", () => {
  const scenario = withProbability(parseScenario({ models: [A, B] }), 0.25);
  assert.deepEqual(scenario.models.map(({ probability }) => probability), [1, 0.25]);
  for (const wrong of [-0.1, 1.1, NaN]) assert.throws(() => withProbability(scenario, wrong), RangeError);
});

test("compareNames: the order of UTF-8 bytes", () => {
  const names = ["a", "B", "_", "aa", "", "é", "\u{1f600}", "\uff5e", "Z9", "Z10"];
  const encoder = new TextEncoder();
  const bytes = (a: string, b: string): number => {
    const [x, y] = [encoder.encode(a), encoder.encode(b)];
    for (let i = 0; i < Math.min(x.length, y.length); ++i) if (x[i] !== y[i]) return x[i]! - y[i]!;
    return x.length - y.length;
  };
  for (const a of names) {
    for (const b of names) assert.equal(Math.sign(compareNames(a, b)), Math.sign(bytes(a, b)), `${a} ${b}`);
  }
});

test("hardware: what ships, what is added, what is replaced", async () => {
  const builtin = await builtinHardware();
  assert.equal(builtin.settings.size, 26);
  assert.equal(new Set([...builtin.settings.values()].map(({ style }) => style)).size, 26);
  const names = (await builtinScenarios()).flatMap(({ models }) => models.map(({ name }) => name));
  for (const { models } of builtin.accelerators.values()) {
    for (const name of names) assert.ok(models.has(name), name);
  }
  const own = parseHardware(
    {
      accelerators: { cpu: { models: { A: { cycles: 2e6, energyNJ: 3 } } } },
      settings: { two: { accelerators: ["cpu", "Single_4K:WS"] }, Single_4K__WS: { accelerators: ["cpu"] } },
    },
    "own.json",
    builtin,
  );
  assert.equal(own.settings.size, 27);
  assert.deepEqual(costsOf(parseScenario({ models: [A] }), "Single_4K__WS", own), [[{
    cycles: 2e6,
    energyNJ: 3,
  }]]);
  const priced = parseScenario({ models: [{ ...A, cost: { latencyMs: 1.5, energyMJ: 2 } }] });
  assert.deepEqual(
    costsOf(priced, "two", own),
    Array(2).fill([{ cycles: 1.5e6, energyNJ: 2e6, layerEdp: 3e12 }]),
  );
});

test("hardware: faults are named by their place", async () => {
  const builtin = await builtinHardware();
  const accelerators = { cpu: { models: { A: { cycles: 1, energyNJ: 1 } } } };
  const cases: [() => unknown, RegExp][] = [
    [
      () => parseHardware({ settings: {} }, "h.json"),
      /^Cannot read hardware h\.json: accelerators: nothing found/,
    ],
    [
      () =>
        parseHardware(
          { accelerators: { cpu: { models: { A: { cycles: -1, energyNJ: 1 } } } }, settings: {} },
          "h.json",
        ),
      /accelerators\.cpu\.models\.A\.cycles: -1 found, cycles of 1 GHz/,
    ],
    [
      () => parseHardware({ accelerators, settings: { s: { accelerators: [] } } }, "h.json"),
      /settings\.s\.accelerators: a list of 0 found/,
    ],
    [
      () => parseHardware({ accelerators, settings: { s: { accelerators: ["cpu", "gpu"] } } }, "h.json"),
      /settings\["s"\]\.accelerators\[1\]: no accelerator "gpu" here: one of cpu wanted/,
    ],
    [
      () => costsOf(parseScenario({ models: [A] }), "nope", builtin),
      /"nope": no such setting: one of Single_4K__WS/,
    ],
    [
      () => costsOf(parseScenario({ models: [A] }, "mine"), "Single_4K__WS", builtin),
      /^Cannot read scenario mine: models\[0\]\.name: "A" has no cost on Single_4K:WS/,
    ],
  ];
  for (const [run, pattern] of cases) {
    assert.throws(run, (error) => error instanceof XrError && pattern.test(error.message), pattern.source);
  }
  await assert.rejects(builtinScenario("nope"), /"nope": no such scenario: one of social_interactionA/);
});

test("builtinModels: eleven networks of 1,301 layers", async () => {
  const models = await builtinModels();
  assert.deepEqual(models.map(({ task }) => task).sort(), [
    "AS",
    "DE",
    "DR",
    "ES",
    "GE",
    "HT",
    "KD",
    "OD",
    "PD",
    "SR",
    "SS",
  ]);
  assert.equal(models.reduce((sum, { layers }) => sum + layers.length, 0), 1301);
});

test("readMScenario: keys in any order, comments, no names, strides, types, either line end", () => {
  const text = `// nothing
Network A {\tFPS:60 // sixty
  Layer { Stride { X: 2 } Dimensions: { S: 1, R: 2, X: 3, Y: 4, C: 5, K: 6 } Type: DSCONV }
}
Network B { Dependency -> { A } Layer l { Type: TRCONV; Dimensions { K 1 C 1 Y 1 X 1 R 1 S 1 N 2 } } Probability: .5 FPS: 30 }
Network C { FPS: 1 Dependency: { A, B } }`;
  for (const file of [text, text.replaceAll("\n", "\r\n")]) {
    assert.deepEqual(readMScenario(file, "x.m").models, [
      {
        name: "A",
        fps: 60,
        probability: 1,
        dependencies: [],
        layers: [{ type: "DSCONV", N: 1, K: 6, C: 5, Y: 4, X: 3, R: 2, S: 1 }],
      },
      {
        name: "B",
        fps: 30,
        probability: 0.5,
        dependencies: ["A"],
        layers: [{ name: "l", type: "TRCONV", N: 2, K: 1, C: 1, Y: 1, X: 1, R: 1, S: 1 }],
      },
      { name: "C", fps: 1, probability: 1, dependencies: ["A", "B"], layers: [] },
    ]);
  }
});

test("readMScenario: every fault has its line and byte", () => {
  const layer = "Layer l { Type: CONV Dimensions: { K: 1 C: 1 Y: 1 X: 1 R: 1 S: 1 } }";
  const cases: [string, RegExp][] = [
    ["", /at byte 0: line 1: no Network found/],
    ["// é\n\nAccelerator A { }", /at byte 7: line 3: "Accelerator" found, Network wanted/],
    ["Network { FPS: 1 }", /line 1: \{ found, the network's name wanted/],
    ["Network A { }", /line 1: network "A" has no FPS/],
    ["Network A {", /line 1: the file ends/],
    ["Network A { FPS: 0 }", /FPS: "0" found, a whole number from 1/],
    ["Network A { FPS: -3 }", /FPS: -3 found, no number below 0/],
    ["Network A { FPS: 29.97 }", /FPS: "29\.97" found/],
    ["Network A { FPS: many }", /FPS: "many" found/],
    ["Network A { FPS: 1 FPS: 2 }", /"FPS" found a second time/],
    ["Network A { FPS: 1 Probability: 1.5 }", /Probability: "1\.5" found/],
    ["Network A { FPS: 1 Probability: -0.5 }", /Probability: -0\.5 found/],
    ["Network A { FPS: 1 Speed: 2 }", /"Speed" found, FPS, Probability/],
    ["Network A{ FPS: 1 }", /"FPS" found, \{ wanted/],
    ["Network A { FPS: 1\nLayer l { Type: POOL } }", /line 2: type "POOL" found/],
    ["Network A { FPS: 1\nLayer l { } }", /line 2: layer "l" has no Type/],
    ["Network A { FPS: 1\nLayer l { Type: CONV } }", /line 2: layer "l" has no size K/],
    [`Network A { FPS: 1 ${layer.replace("K: 1", "K: -8")} }`, /K: -8 found, no number below 0/],
    [`Network A { FPS: 1 ${layer.replace("K: 1", "K: 0")} }`, /K: "0" found/],
    [`Network A { FPS: 1 ${layer.replace("K: 1", "Q: 1")} }`, /size "Q" found, one of N, K/],
    [`Network A { FPS: 1 ${layer.replace("C: 1", "K: 1")} }`, /"K" found a second time/],
    [`Network A { FPS: 1 ${layer.replace("{ K", "{K")} }`, /"\{K" found, \{ wanted/],
    [`Network A { FPS: 1 ${layer} } Network`, /the file ends, the network's name wanted/],
  ];
  for (const [text, pattern] of cases) {
    assert.throws(() => readMScenario(text, "x.m"), (error) => {
      assert.ok(error instanceof FormatError, String(error));
      assert.match(error.message, /^Cannot read x\.m: at byte \d+: line \d+: /);
      assert.match(error.message, pattern);
      return true;
    });
  }
});

test("readMScenario: a file that is cut or damaged is read or refused", () => {
  const layer = "Layer l {\nType: CONV\nDimensions: { K: 1, C: 1, Y: 1, X: 1, R: 1, S: 1 }\n}\n";
  const text = `Network A {\nFPS: 60\n${layer}}\nNetwork B {\nFPS: 60\nDependency: { A }\n}\n`;
  const random = new Random(3);
  for (let i = 0; i < 3000; ++i) {
    const at = random.below(text.length + 1);
    const damaged = i <= text.length
      ? text.slice(0, i)
      : text.slice(0, at) + String.fromCharCode(random.below(128)) + text.slice(at + random.below(4));
    try {
      parseScenario(readMScenario(damaged, "x.m"), "x.m");
    } catch (error) {
      if (!(error instanceof FormatError || error instanceof XrError)) throw error;
    }
  }
});
