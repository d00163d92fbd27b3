/** OpenAI's own clients, and a load balancer, as `deno task test` has installed them. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { rootPath } from "./shared.ts";

/** Where they are. */
export const OPENAI_FOLDER: string = rootPath("tests/runtimes/openai");
/** The Python that has the one for Python. */
export const PYTHON_CLIENT: string = process.platform === "win32"
  ? join(OPENAI_FOLDER, "build", "python", "Scripts", "python.exe")
  : join(OPENAI_FOLDER, "build", "python", "bin", "python");

/** Caddy, which pip has too. */
export const CADDY: string = join(
  dirname(PYTHON_CLIENT),
  process.platform === "win32" ? "caddy.exe" : "caddy",
);

/** The `skip` option of a test that needs the one for Python: a machine that decides what lands has to have it. */
export function skipWithoutPython(): string | false {
  const isThere = existsSync(PYTHON_CLIENT) &&
    existsSync(join(OPENAI_FOLDER, "build", "requirements.txt.installed"));
  return isThere || process.env["CI"]
    ? false
    : "Python's openai could not be installed: deno task test says why";
}

/** A class of errors. */
type ErrorClass = abstract new (
  ...args: never[]
) => Error & { readonly status: number; readonly code: string };

/** The client for JavaScript, as far as tests use it; its own types are not where the checkout's are. */
export interface OpenAIModule {
  // deno-lint-ignore no-explicit-any
  readonly default: (new (options: { apiKey: string; baseURL: string; maxRetries: number }) => any) & {
    readonly APIError: ErrorClass;
    readonly BadRequestError: ErrorClass;
    readonly AuthenticationError: ErrorClass;
    readonly NotFoundError: ErrorClass;
    readonly RateLimitError: ErrorClass;
  };
}

/** Loads it. */
export function importOpenai(): Promise<OpenAIModule> {
  return import(pathToFileURL(join(OPENAI_FOLDER, "node_modules", "openai", "index.mjs")).href) as Promise<
    OpenAIModule
  >;
}
