/** SVG text as tests look at it. */
import assert from "node:assert/strict";

/** Whether every element that is opened is closed, text is text, and nothing is drawn at NaN. */
export function assertWellFormed(svg: string): void {
  const open: string[] = [];
  for (const [tag, end, name, self] of svg.matchAll(/<(\/?)([a-zA-Z]+)(?:\s[^<>]*?)?(\/?)>/g)) {
    if (end) assert.equal(open.pop(), name, tag);
    else if (!self) open.push(name!);
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(svg, /NaN|Infinity|undefined|null/);
  assert.doesNotMatch(svg.replace(/&(#\d+|amp|lt|gt|quot);/g, ""), /&/);
}
