import assert from "node:assert/strict";
import { test } from "node:test";
import { recipeOfThresholds } from "../../src/cli/bench/recipes.ts";
import { layerWeights, SHAPES } from "../../src/cli/bench/shapes.ts";
import { syntheticModel } from "../../src/cli/bench/synthetic_model.ts";
import { layersToHold } from "../../src/cli/bench/variants.ts";
import { Model } from "../../src/mod.ts";
import { UNEVEN } from "../support/shapes.ts";

const DTYPES = ["f32", "bf16", "int8", "int4"] as const;
const STORED = { f32: "F32", bf16: "BF16", int8: "Q8_0", int4: "Q4_1" } as const;

test("SHAPES: as many weights as the models have", () => {
  const parameters = Object.values(SHAPES).map((config) =>
    layerWeights(config) * config.numHiddenLayers +
    config.vocabSize * config.hiddenSize * (config.tieWordEmbeddings ? 1 : 2) +
    config.hiddenSize * (2 * config.numHiddenLayers + 1)
  );
  // what the models' cards say
  assert.deepEqual(parameters, [134_515_008, 1_100_048_384, 6_738_415_616]);
});

test("layersToHold: all where they fit 1 GiB, and never so few that a cache holds them", () => {
  assert.equal(layersToHold("smollm2-135m", "f32"), 30);
  assert.equal(layersToHold("tinyllama-1.1b", "int8"), 22);
  assert.equal(layersToHold("tinyllama-1.1b", "f32"), 6);
  assert.equal(layersToHold("llama2-7b", "int4"), 8);
  assert.equal(layersToHold("llama2-7b", "f32"), 1);
});

for (const dtype of DTYPES) {
  test(`syntheticModel: loads in ${dtype}, and what it computes stays normal`, async () => {
    const { files } = syntheticModel("tiny", UNEVEN, dtype, 2);
    await using model = await Model.load(files, { kernels: "baseline", dtype });
    const { rmsNormEps } = UNEVEN;
    assert.deepEqual(model.config, { ...UNEVEN, numHiddenLayers: 2, rmsNormEps: Math.fround(rmsNormEps) });
    assert.equal(model.name, "tiny");
    assert.equal(model.description.quantization, STORED[dtype]);
    assert.equal(
      model.description.parameters,
      2 * layerWeights(UNEVEN) + 2 * 300 * 160 + 5 * 160,
    );
    using session = model.session();
    let sites = 0, values = 0, subnormal = 0;
    session.advance(Array.from({ length: 24 }, (_, i) => i * 11), {
      observe(layer, site, x, stride, nTokens) {
        sites++;
        const nIn = site[0] === "downProj" ? 224 : 160;
        for (let t = 0; t < nTokens; t++) {
          for (const value of new Float32Array(model.engine.memory.buffer, x + 4 * stride * t, nIn)) {
            values++;
            assert.ok(Math.abs(value) < 1000, `layer ${layer}, ${site[0]}: ${value}`);
            if (value !== 0 && Math.abs(value) < 2 ** -126) subnormal++;
          }
        }
      },
    });
    assert.equal(sites, 8);
    assert.equal(values, 2 * 24 * (3 * 160 + 224));
    assert.equal(subnormal, 0);
    const logits = session.decode(7), square = logits.reduce((sum, logit) => sum + logit * logit, 0);
    const rms = Math.sqrt(square / logits.length);
    assert.ok(rms > 0.5 && rms < 2, `${rms}`);
  });
}

test("syntheticModel: its bytes are the same however they are cut, and the seed's", async () => {
  const { blob } = syntheticModel("tiny", UNEVEN, "int4", 3).files[0]!;
  const whole = new Uint8Array(await blob.arrayBuffer());
  assert.equal(whole.length, blob.size);
  for (const [start, end] of [[0, 10], [9_000, 9_100], [9_050], [-100, -1], [70_001, 140_007]] as const) {
    const part = new Uint8Array(await blob.slice(start, end).arrayBuffer());
    assert.deepEqual(part, whole.slice(start, end), `${start} to ${end}`);
  }
  const inner = blob.slice(100, 50_000).slice(1000, -1000);
  assert.deepEqual(new Uint8Array(await inner.arrayBuffer()), whole.slice(1100, 49_000));
  const bytesOf = async (seed: number): Promise<Uint8Array> =>
    new Uint8Array(await syntheticModel("tiny", UNEVEN, "int4", 3, seed).files[0]!.blob.arrayBuffer());
  assert.deepEqual(await bytesOf(1), whole);
  assert.notDeepEqual(await bytesOf(2), whole);
});

test("recipeOfThresholds: a synthetic model runs sparse by it", async () => {
  const { files } = syntheticModel("tiny", UNEVEN, "int4", 3), options = { kernels: "baseline" } as const;
  await using dense = await Model.load(files, options);
  const recipe = recipeOfThresholds(UNEVEN, await dense.hash(), 0.5, (nIn) => nIn === 224 ? 0.1 : 0.6);
  await using sparse = await Model.load(files, { ...options, recipe });
  using session = sparse.session();
  session.prefill([1, 2, 3, 4], { prefill: "sparse" });
  const { kept, dense: all } = session.count;
  assert.ok(kept > 0.2 * all && kept < 0.8 * all, `${kept} of ${all}`);
});
