/** Node.js. */
import process from "node:process";
import { serve } from "./node_http.ts";
import type { Platform } from "./platform.ts";
import { serverPlatform } from "./server.ts";

/** The platform of this process. */
export const platform: Platform = { ...serverPlatform(`node ${process.versions.node}`), serve };
