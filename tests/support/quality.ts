/** Documents of `rsparse eval --json` made by hand. */

/** What tests break may be anything. */
// deno-lint-ignore no-explicit-any
export type Loose = any;

/** One that fits. */
export function qualityDocument(
  over: {
    method?: string | null;
    sparsity?: number;
    rho?: number;
    sha256?: string;
    prefill?: string;
    context?: number;
  } = {},
): Loose {
  const { method = "by-site", sparsity = 0.5, rho = 1, sha256 = "ab".repeat(32), prefill = "sparse" } = over;
  const dense = method === null, nll = dense ? 3.25 : 3.55;
  const text = (name: string, n: number) => ({
    name,
    n,
    sparseTokens: dense ? 0 : 0.999,
    measuredSparsity: dense ? null : sparsity - 0.01,
    complete: true,
    metrics: {
      perplexity: Math.round(1000 * Math.exp(nll)) / 1000,
      nll,
      ...(dense ? {} : { kl: 0.38, agreement: 0.66 }),
    },
    stderr: { perplexity: 0.5, nll: 0.02, ...(dense ? {} : { kl: 0.01, agreement: 0.004 }) },
    tokens: 1023 * n,
    pieceLength: 1024,
    ...(over.context === undefined ? {} : { context: over.context }),
    ...(dense ? {} : {
      dense: { metrics: { perplexity: 25.79, nll: 3.25 }, stderr: { perplexity: 0.5, nll: 0.02 } },
      paired: { nll: { difference: 0.3, stderr: 0.01, p: 0.0001, test: "sign-flip" } },
    }),
  });
  const choices = (name: string, n: number, metric: string, share: number, was: number) => ({
    name,
    n,
    sparseTokens: dense ? 0 : 1,
    measuredSparsity: dense ? null : sparsity,
    complete: true,
    metrics: { [metric]: dense ? was : share },
    stderr: { [metric]: 0.02 },
    ...(dense ? {} : {
      dense: { metrics: { [metric]: was }, stderr: { [metric]: 0.02 } },
      paired: {
        [metric]: {
          difference: share - was,
          stderr: 0.01,
          p: share < was ? 0.01 : 0.4,
          test: "mcnemar",
          better: 3,
          worse: 5,
        },
      },
    }),
  });
  return {
    model: {
      name: "Smollm2 135M 8k Lc100K Mix1 Ep2",
      architecture: "llama",
      parameters: 134515008,
      quantization: "Q4_1",
      dtype: "f32",
    },
    engine: {
      runtime: "deno 2.9.6",
      kernels: "baseline",
      threads: 1,
      threadsReason: null,
      layouts: {},
      storage: {},
    },
    recipe: dense ? null : { method, sparsity, rho, sha256, stream: "sparse" },
    prefill,
    tasks: [
      text("wikitext2", 261),
      text("c4", 64),
      choices("piqa", 919, "acc", 0.62, 0.66),
      choices("boolq", 1635, "acc", 0.47, 0.41),
    ],
    measuredSparsity: dense ? null : sparsity - 0.01,
    seconds: 12.5,
    seed: 0,
  };
}
