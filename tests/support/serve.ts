/** `rsparse serve` as tests start it. */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CHAT_FOLDER, CHAT_TEMPLATE } from "./chat_model.ts";
import { CLI } from "./cli.ts";
import { startProgram } from "./process.ts";
import { requireShared } from "./shared.ts";

/** A server in a process of its own. */
export interface ServeProcess {
  /** `http://127.0.0.1:…`, once it listens. */
  readonly url: string;
  readonly pid: number;
  /** What it has said on stderr. */
  said(): string;
  send(signal: "SIGINT" | "SIGTERM" | "SIGKILL"): void;
  /** Its exit status. */
  readonly ended: Promise<number>;
}

/** Starts it on a free port; resolves when it listens, which is before the model is loaded. */
export async function startServe(
  args: readonly string[],
  env: { readonly [name: string]: string } = {},
): Promise<ServeProcess> {
  const { pid, stdout, stderr, says, send, ended } = startProgram(
    [...CLI, "serve", "--port", "0", ...args],
    env,
  );
  const [, url] = await says(/listening on (http:\S+)/);
  return {
    url: url!,
    pid,
    said: stderr,
    send,
    ended: ended.then((code) => {
      assert.equal(stdout(), "");
      return code;
    }),
  };
}

/** Runs `use` on a server whose model is loaded, and ends it as Ctrl-C does. */
export async function withServe(
  args: readonly string[],
  use: (server: ServeProcess) => Promise<void>,
): Promise<void> {
  const server = await startServe(args);
  let wasAsked = false;
  try {
    await until("the model", () => server.said().includes("ready: "), server.said);
    await use(server);
    server.send("SIGINT");
    wasAsked = true;
    assert.equal(await server.ended, 0, server.said());
  } finally {
    if (!wasAsked) server.send("SIGKILL");
  }
}

/** Waits until `isTrue`; fails after half a minute, with what `explain` says. */
export async function until(
  what: string,
  isTrue: () => boolean | Promise<boolean>,
  explain: () => string = () => "",
): Promise<void> {
  const began = performance.now();
  while (!await isTrue()) {
    assert.ok(performance.now() - began < 30_000, `waited in vain for ${what}: ${explain()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A folder below `parent` with the babbling model and its chat template. */
export function chatFolder(parent: string): string {
  const folder = join(parent, "babbler");
  mkdirSync(folder, { recursive: true });
  for (const name of ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]) {
    copyFileSync(join(requireShared(CHAT_FOLDER), name), join(folder, name));
  }
  writeFileSync(join(folder, "chat_template.jinja"), CHAT_TEMPLATE);
  return folder;
}
