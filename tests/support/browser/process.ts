/** Stands in for `node:process` in a page. */
const process: {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly versions: Readonly<Record<string, string | undefined>>;
} = { env: {}, versions: {} };

export default process;
