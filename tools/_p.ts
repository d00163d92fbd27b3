import { stop } from "esbuild";
import { bundlePage } from "./build_page.ts";
await bundlePage();
await stop();
