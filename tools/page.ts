/** `deno task page [--port N] [--plain]`: builds the page of `examples/browser` and serves it to this machine. */
import process from "node:process";
import { parseArgs } from "node:util";
import { stop } from "esbuild";
import { servePage } from "../examples/browser/serve.ts";
import { bundlePage, PAGE } from "./build_page.ts";
import { prepare } from "./prepare.ts";

const HELP = `deno task page [options]: the page of examples/browser, on http://127.0.0.1:8000

  --port N   another port; 0 takes one that is free
  --plain    without the COOP and COEP headers: the model then runs on one thread
`;

async function main(): Promise<number> {
  let options: { port: string; plain: boolean; help: boolean };
  try {
    ({ values: options } = parseArgs({
      options: {
        port: { type: "string", default: "8000" },
        plain: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }));
  } catch (error) {
    console.error(`error: ${(error as Error).message}`);
    return 2;
  }
  if (options.help) {
    console.log(HELP);
    return 0;
  }
  const port = Number(options.port);
  if (!(Number.isInteger(port) && port >= 0 && port < 65536)) {
    console.error(`error: Cannot serve the page: --port ${options.port} found, 0 to 65535 wanted`);
    return 2;
  }
  await prepare();
  await bundlePage();
  await stop();
  try {
    const { url } = await servePage({ folder: PAGE, port, isolated: !options.plain });
    console.log(url);
    console.error(
      options.plain ? "one thread: served without COOP and COEP" : "with COOP and COEP, for threads",
    );
  } catch (error) {
    console.error(
      `error: Cannot serve the page: port ${port}: ${(error as Error).message}: give another --port`,
    );
    return 1;
  }
  return await new Promise<never>(() => {});
}

process.exit(await main());
