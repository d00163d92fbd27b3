/** A worker that answers what the embedded model computes in it: for `parity_test.ts`. */
import { Model } from "rsparse/edge";
import kernels from "rsparse/kernels.baseline.wasm";
import pack from "rsparse/tiny.rsparse";
import { tinyHashes } from "./hashes.ts";

export default {
  async fetch(): Promise<Response> {
    const hashes: { [name: string]: string } = {};
    for (const sparsity of [0, 0.5]) {
      const model = await Model.load(new Uint8Array(pack), {
        kernels,
        recipe: sparsity === 0 ? null : undefined,
      });
      Object.assign(hashes, await tinyHashes(model, sparsity));
      await model.close();
    }
    return Response.json(hashes);
  },
};
