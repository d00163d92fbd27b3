/** The dtype of a model as people are told it. */
import type { Model } from "../runtime/model.ts";

const DTYPE_OF: readonly (readonly [RegExp, string])[] = [
  [/f32$/, "f32"],
  [/bf16$/, "bf16"],
  [/i8$/, "int8"],
  [/i4$/, "int4"],
];

/** How most weights of the projections are kept in memory. */
export function dtypeOf(model: Model): string {
  const weights = new Map<string, number>();
  for (const layer of model.engine.weights.layers) {
    for (const { matrix: { layout, nIn, nOut } } of layer.sites.flat()) {
      const dtype = DTYPE_OF.find(([pattern]) => pattern.test(layout))?.[1] ?? layout;
      weights.set(dtype, (weights.get(dtype) ?? 0) + nIn * nOut);
    }
  }
  return [...weights].reduce((best, next) => next[1] > best[1] ? next : best)[0];
}
