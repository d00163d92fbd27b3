/**
 * The embedded model as a Supabase edge function, by OpenAI's HTTP interface: README.md says how to deploy it. In the checkout:
 *
 *     deno run --allow-net --allow-read=models,build examples/edge-supabase/functions/tiny/index.ts
 *     curl -N http://localhost:8000/tiny/v1/chat/completions -H "content-type: application/json" \
 *       -d '{"messages": [{"role": "user", "content": "Tell me a story."}], "stream": true, "max_tokens": 64}'
 */
import { createHandler, Model } from "rsparse/edge";
import { kernelsUrl, tinyUrl } from "rsparse/tiny";

/**
 * 256 MB, and 2 s of processor time a request: half of it goes far beyond 200 tokens at 50 %, and leaves room for a slower machine. One generation at a time, as
 * what runs beside another takes its time.
 */
const OPTIONS = {
  modelName: "tiny",
  maxSequences: 1,
  maxQueue: 4,
  kvBytes: 16 << 20,
  maxOutputTokens: 200,
  sparsity: 0.5,
  cors: "*",
};

const ready = Deno.readFile(kernelsUrl("baseline"))
  .then((kernels) => Model.load(tinyUrl(), { kernels }))
  .then((model) => createHandler(model, OPTIONS));

Deno.serve(async (request) => {
  // Supabase puts the function's name before the path
  const url = new URL(request.url);
  url.pathname = url.pathname.replace(/^(\/functions\/v1)?\/tiny(?=\/)/, "");
  return await (await ready)(new Request(url, request));
});
