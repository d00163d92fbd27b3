/** `deno task rsparse`: the command line from the sources, its kernels built first. One process, so that a start costs one. */
import { prepare } from "./prepare.ts";

await prepare();
// Not a literal: Deno reads what literals lead to before this line runs, when the kernels may not be there yet.
await import(new URL("../src/cli/main.ts", import.meta.url).href);
