/** The one place where the runtime is told apart. */
import type { Platform } from "./platform.ts";

/** What only one runtime has, or all but browsers. */
interface Globals {
  readonly Deno?: { readonly version?: { readonly deno?: string } };
  readonly Bun?: object;
  readonly process?: { readonly versions?: { readonly node?: string } };
}

/** The adapter of the runtime that this code runs on. Deno and Bun also claim to be Node, so Node is asked for last. */
export async function detectPlatform(): Promise<Platform> {
  const { Deno: deno, Bun: bun, process: node } = globalThis as Globals;
  if (deno?.version?.deno) return (await import("./deno.ts")).platform;
  if (bun) return (await import("./bun.ts")).platform;
  if (node?.versions?.node) return (await import("./node.ts")).platform;
  return (await import("./browser.ts")).platform;
}
