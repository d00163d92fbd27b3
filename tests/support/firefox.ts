/** A Firefox for tests of the page. */
import { spawnSync } from "node:child_process";
import process from "node:process";

/** A Firefox to start. */
export interface Firefox {
  readonly path: string;
  /** For example `firefox 153.8.0`. */
  readonly version: string;
}

let found: Firefox | null = null;

/** The Firefox of `RSPARSE_FIREFOX`, or the PATH; null where there is none. */
export function findFirefox(): Firefox | null {
  const named = process.env["RSPARSE_FIREFOX"];
  if (named && tryFirefox(named) === null) {
    throw new Error(`Cannot run RSPARSE_FIREFOX: ${named} --version failed`);
  }
  return found ??=
    (named ? [named] : ["firefox-esr", "firefox"]).map(tryFirefox).find((one) => one !== null) ??
      null;
}

function tryFirefox(path: string): Firefox | null {
  const { status, stdout } = spawnSync(path, ["--version"], { encoding: "utf8" });
  const version = /\d+(\.\d+)+/.exec(stdout ?? "")?.[0];
  return status === 0 && version ? { path, version: `firefox ${version}` } : null;
}
