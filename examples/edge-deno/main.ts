/**
 * The embedded model on Deno Deploy, or wherever Deno runs: OpenAI's HTTP interface, streaming. README.md says how to deploy it. In the checkout:
 *
 *     deno run --allow-net --allow-read=models,build examples/edge-deno/main.ts
 *     curl -N http://localhost:8000/v1/chat/completions -H "content-type: application/json" \
 *       -d '{"messages": [{"role": "user", "content": "Tell me a story."}], "stream": true, "sparsity": 0.5}'
 */
import { createHandler, Model } from "rsparse/edge";
import { kernelsUrl, tinyUrl } from "rsparse/tiny";

/** 512 MB hold many of its generations: a page of 64 positions takes 0.5 MB. */
const OPTIONS = { modelName: "tiny", maxSequences: 8, maxQueue: 16, kvBytes: 128 << 20, cors: "*" };

// a request that comes first waits for it; the model's bytes are read to where they will be
const ready = Deno.readFile(kernelsUrl("relaxed"))
  .then((kernels) => Model.load(tinyUrl(), { kernels }))
  .then((model) => createHandler(model, OPTIONS));

Deno.serve(async (request) => await (await ready)(request));
