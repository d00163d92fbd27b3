/** Prints the hashes of this runtime as JSON. */
import { parityHashes } from "./hashes.ts";

console.log(JSON.stringify(await parityHashes()));
