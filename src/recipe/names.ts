/** Names that a recipe's file has in common with checkpoints. */

const PROJECTION = /^model\.layers\.(0|[1-9]\d{0,3})\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)$/;
const GAIN = /^model\.(layers\.(0|[1-9]\d{0,3})\.(input_layernorm|post_attention_layernorm)|norm)$/;

/** The tensor with the weight of the last norm at sparse positions. */
export const FINAL_GAIN = "model.norm";

/** Names of the norms before a block's attention and before its MLP. */
export const GAIN_NAMES = { attention: "input_layernorm", mlp: "post_attention_layernorm" } as const;

/** The tensor with a norm's weight at sparse positions. */
export function gainName(layer: number, norm: keyof typeof GAIN_NAMES): string {
  return `model.layers.${layer}.${GAIN_NAMES[norm]}`;
}

/** Whether a tensor's name is one of a norm. */
export function isGainName(name: string): boolean {
  return GAIN.test(name);
}

/** Whether a text is a projection's path. */
export function isPath(text: string): boolean {
  return PROJECTION.test(text);
}

/** What projections with one input have in common: `model.layers.3.self_attn.qkv`; o and down have one of their own. */
export function siteOf(path: string): string {
  return path.replace(/[qkv]_proj$/, "qkv").replace(/(gate|up)_proj$/, "gate_up");
}
