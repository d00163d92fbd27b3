/**
 * Makes a recipe that skips 40 % of the multiply-adds, and answers a question dense and sparse.
 *
 *     deno run -A examples/calibrate.ts
 */
import process from "node:process";
import { calibrateModel, defaultCalibrationText } from "../src/calibrate/mod.ts";
import { Model } from "../src/mod.ts";

const dense = await Model.load("smollm2");
const recipe = await calibrateModel(dense, {
  ...await defaultCalibrationText(),
  tokens: 1024,
  sparsity: 0.4,
  dialStreams: [],
});
await dense.close();

const model = await Model.load("smollm2", { recipe });
for (const sparsity of [0, 0.4]) {
  console.log(`\nsparsity ${sparsity}:`);
  const messages = [{ role: "user", content: "What is gravity?" }];
  for await (const { text, result } of model.chat(messages, { sparsity, maxTokens: 64 })) {
    process.stdout.write(text);
    if (result) {
      const measured = result.measuredSparsity?.toFixed(3) ?? "0";
      console.log(`\n[measured sparsity ${measured}, ${result.decodeTokensPerSecond?.toFixed(1)} tok/s]`);
    }
  }
}
await model.close();
