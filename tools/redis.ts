/** A Redis for the tests of the queue: the one that is there, else Debian's. npm has none that is not compiled on the spot. */
import { findRedis } from "../tests/support/redis.ts";
import { installFromDebian } from "./apt.ts";

/** Its program, installed if there is none; or why there is none. */
export function installRedis(): { readonly program: string } | string {
  const here = findRedis();
  if (here !== null) return { program: here };
  try {
    console.error("installing a Redis for the tests …");
    installFromDebian("redis-server");
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  const installed = findRedis();
  return installed === null ? "what was installed does not start" : { program: installed };
}
