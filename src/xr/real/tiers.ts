/** Tiers: how much of a workload is asked for. A result always names its own, as a score of one says nothing about another. */
import type { Layer, Scenario } from "../scenario.ts";

/** Names of tiers. */
export const TIERS = ["asShipped", "depthwise", "scaled"] as const;

/** What is asked for. */
export interface Tier {
  /**
   * `asShipped`: layers as XRBench encodes them, dense, without strides or padding. `depthwise`: as the networks are. `scaled`: as those, with rates or
   * resolutions divided.
   */
  readonly name: (typeof TIERS)[number];
  /** Divides the rate of every model. */
  readonly rate: number;
  /** Divides height and width of every layer. */
  readonly resolution: number;
}

/** As the networks are, at full rate and resolution. */
export const DEFAULT_TIER: Tier = { name: "depthwise", rate: 1, resolution: 1 };

const MAX_DIVISOR = 1024;

/**
 * Reads a tier: `asShipped`, `depthwise`, or `scaled` with `rate=D`, `resolution=D` or both.
 *
 * @throws {RangeError} If it is none.
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * assert.deepEqual(parseTier("scaled:resolution=4"), { name: "scaled", rate: 1, resolution: 4 });
 * assert.throws(() => parseTier("scaled"), /rate=D, resolution=D or both wanted/);
 * ```
 */
export function parseTier(text: string): Tier {
  const [name, ...parts] = text.split(":");
  if (name !== "scaled") {
    if ((name === "asShipped" || name === "depthwise") && parts.length === 0) {
      return { name, rate: 1, resolution: 1 };
    }
    throw new RangeError(`${JSON.stringify(text)} found, asShipped, depthwise or scaled:… wanted`);
  }
  const divisors = { rate: 1, resolution: 1 };
  for (const part of parts) {
    const [, key, value] = /^(rate|resolution)=(.+)$/s.exec(part) ?? [], divisor = Number(value);
    if (key === undefined || !(divisor >= 1 && divisor <= MAX_DIVISOR)) {
      throw new RangeError(
        `${JSON.stringify(part)} found, rate=D or resolution=D with D from 1 to ${MAX_DIVISOR} wanted`,
      );
    }
    divisors[key as keyof typeof divisors] = divisor;
  }
  if (parts.length === 0) {
    throw new RangeError(`"scaled" found, after it :rate=D, resolution=D or both wanted`);
  }
  return { name, ...divisors };
}

/** A tier as {@linkcode parseTier} reads it. */
export function tierText({ name, rate, resolution }: Tier): string {
  return [
    name,
    ...rate === 1 ? [] : [`rate=${rate}`],
    ...resolution === 1 ? [] : [`resolution=${resolution}`],
  ].join(":");
}

/** The scenario with every rate multiplied; deadlines follow. */
export function withRate(scenario: Scenario, multiplier: number): Scenario {
  if (multiplier === 1) return scenario;
  return {
    ...scenario,
    models: scenario.models.map((model) => ({ ...model, fps: model.fps * multiplier })),
  };
}

/** A layer as a product: `rows` patches of `nIn` numbers, for each of `groups`, by `nOut` outputs. */
export interface Product {
  readonly rows: number;
  readonly nIn: number;
  readonly nOut: number;
  readonly groups: number;
  /** Of the convolution: how patches lie in the input, [height, width, channels] with its padding. */
  readonly patch: {
    readonly width: number;
    readonly channels: number;
    readonly outWidth: number;
    readonly stride: number;
    readonly kernelHeight: number;
    readonly kernelWidth: number;
  };
  /** Numbers of the input, with its padding. */
  readonly inputs: number;
}

/** Layers as products under a tier. Layers whose kernel is larger than their input are none where there is no padding. */
export function productsOf(
  layers: readonly Layer[],
  { name }: Pick<Tier, "name">,
  divisor: number,
): Product[] {
  return layers.flatMap(({ N, K, C, Y, X, R, S, stride: ownStride = 1, groups: ownGroups = 1 }) => {
    const isShipped = name === "asShipped";
    const stride = isShipped ? 1 : ownStride, groups = isShipped ? 1 : ownGroups;
    const height = Math.ceil(Y / divisor), width = Math.ceil(X / divisor);
    const outHeight = isShipped ? height - R + 1 : Math.ceil(height / stride);
    const outWidth = isShipped ? width - S + 1 : Math.ceil(width / stride);
    if (outHeight <= 0 || outWidth <= 0) return [];
    const inHeight = (outHeight - 1) * stride + R, inWidth = (outWidth - 1) * stride + S;
    const product = {
      rows: outHeight * outWidth,
      nIn: R * S * C / groups,
      nOut: K / groups,
      groups,
      patch: { width: inWidth, channels: C, outWidth, stride, kernelHeight: R, kernelWidth: S },
      inputs: inHeight * inWidth * C,
    };
    // images are the same product again
    return Array.from({ length: N }, () => product);
  });
}

/** Multiply-adds of products. */
export function macsOf(products: readonly Product[]): number {
  return products.reduce((sum, { rows, nIn, nOut, groups }) => sum + rows * nIn * nOut * groups, 0);
}
