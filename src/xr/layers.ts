/** What layers cost: multiply-adds and weights, as they are encoded and as the networks are. */
import type { Layer } from "./scenario.ts";

/** Counts of one pass over some layers. */
export interface LayerCounts {
  /** Multiply-adds without padding, stride 1, one group: as XRBench's cost model has them. */
  readonly macsValid: number;
  /** With padding, strides and groups. */
  readonly macsRealistic: number;
  /** Dense, as encoded. */
  readonly weightsAsEncoded: number;
  /** With groups. */
  readonly weights: number;
}

/** Adds up layers. */
export function countLayers(layers: readonly Layer[]): LayerCounts {
  let macsValid = 0, macsRealistic = 0, weightsAsEncoded = 0, weights = 0;
  for (const { N, K, C, Y, X, R, S, stride = 1, groups = 1 } of layers) {
    const dense = K * C * R * S, grouped = dense / groups;
    macsValid += N * dense * Math.max(0, Y - R + 1) * Math.max(0, X - S + 1);
    macsRealistic += N * grouped * Math.ceil(Y / stride) * Math.ceil(X / stride);
    weightsAsEncoded += dense;
    weights += grouped;
  }
  return { macsValid, macsRealistic, weightsAsEncoded, weights };
}
