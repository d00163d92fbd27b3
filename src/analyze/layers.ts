/** Which layers are shown, and what their parts are called. */
import { type ProjectionName, projectionPath } from "../model/config.ts";

/** `down_proj`. */
export function shortName(name: ProjectionName): string {
  return projectionPath(0, name).replace(/^.*\./, "");
}

/** At most `most` of `count` layers, evenly, the first and the last among them. */
export function sampleLayers(count: number, most: number): number[] {
  if (count <= most) return Array.from({ length: count }, (_, layer) => layer);
  if (most === 1) return [count >> 1];
  return Array.from({ length: most }, (_, i) => Math.round(i * (count - 1) / (most - 1)));
}

/** What a figure says of the layers it shows; nothing where it shows all. */
export function sampleNote(layers: readonly number[], count: number): string[] {
  return layers.length === count ? [] : [`layers ${layers.join(", ")} of ${count}`];
}
