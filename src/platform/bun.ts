/** Bun. */
import process from "node:process";
import type { Platform } from "./platform.ts";
import { serverPlatform } from "./server.ts";

/** The platform of this process. */
export const platform: Platform = serverPlatform(`bun ${process.versions["bun"]}`);
