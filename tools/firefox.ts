/** A Firefox for tests of the page: the one that is there, else Debian's. npm has none that is not changed for a driver. */
import { findFirefox, type Firefox } from "../tests/support/firefox.ts";
import { installFromDebian } from "./apt.ts";

/** The Firefox of this machine, installed if there is none; or why there is none. */
export function installFirefox(): Firefox | string {
  const here = findFirefox();
  if (here !== null) return here;
  try {
    console.error("installing a Firefox for the tests …");
    installFromDebian("firefox-esr");
    return findFirefox() ?? "what was installed does not start";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
