/** What is drawn, with its numbers. */

/** A plot and its numbers. */
export interface Figure {
  /** Of its files: `NAME.svg`, `NAME.csv`. */
  readonly name: string;
  /** For people. */
  readonly title: string;
  /** The picture. */
  readonly svg: string;
  /** The numbers that it shows, and the exact ones where it shows bins. */
  readonly csv: string;
  /** What was left out of it, or taken for granted. */
  readonly notes: readonly string[];
}
