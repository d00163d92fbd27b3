/**
 * A Cloudflare worker that serves the embedded model by OpenAI's HTTP interface: `npx wrangler deploy`, or `npx wrangler dev`. README.md says what it needs.
 *
 *     curl -N https://NAME.workers.dev/v1/chat/completions -H "content-type: application/json" \
 *       -d '{"messages": [{"role": "user", "content": "Tell me a story."}], "stream": true, "sparsity": 0.5}'
 */
import { createHandler, Model } from "rsparse/edge";
// wrangler compiles it when it is uploaded: a worker may not compile anything while it runs
import kernels from "rsparse/kernels.baseline.wasm";
import pack from "rsparse/tiny.rsparse";

/** What a worker is handed: https://developers.cloudflare.com/workers/configuration/secrets/ */
interface Environment {
  /** A secret: whoever asks has to bring it. Without one the worker answers everybody. */
  readonly API_KEY?: string;
}

/** What lets work go on after the response: https://developers.cloudflare.com/workers/runtime-apis/context/ */
interface Context {
  waitUntil(work: Promise<unknown>): void;
}

const OPTIONS = { modelName: "tiny", maxOutputTokens: 512, cors: "*" };
/** 128 MB hold the code, the pack, the model and the caches of so many requests. */
const MOST_REQUESTS = 4;

let loading: Promise<Model> | null = null, requests = 0;

export default {
  async fetch(request: Request, { API_KEY }: Environment, context: Context): Promise<Response> {
    if (requests >= MOST_REQUESTS) {
      return new Response("too many requests", { status: 429, headers: { "retry-after": "1" } });
    }
    // by the first request: what a worker may do before one is limited, and counts as its start
    const model = await (loading ??= Model.load(new Uint8Array(pack), { kernels }));
    // Each request has a handler of its own: a worker's requests share memory, but one must not wait for what another does,
    // which ends with that other's client.
    const handler = createHandler(model, { ...OPTIONS, ...API_KEY ? { apiKeys: [API_KEY] } : {} });
    requests++;
    try {
      return await handler(request);
    } finally {
      // nothing ends here but the request: slow readers keep the time that they have
      context.waitUntil(handler.drain(Infinity).finally(() => requests--));
    }
  },
};
