/** The defects of the published harness, each a switch: on, as the harness has it; off, repaired. */

/** How a run is simulated or executed. */
export type Mode = "compat" | "corrected" | "real";

/** Every switch, with what the harness does and what is done where it is off. */
export const SWITCHES = {
  floorPeriods: {
    harness: "periods are whole milliseconds, rounded down: 60 a second run at 62.5",
    corrected: "frame i arrives at i * 1000 / fps",
  },
  injectAtEvents: {
    harness: "a request enters at the next tick of the fastest model, or completion",
    corrected: "arrivals are events",
  },
  eventRandom: {
    harness: "draws depend on the number of events, so other hardware sees other requests",
    corrected: "all requests are drawn first, from the seed alone",
  },
  unitOne: {
    harness: "a draw may be 1, so that a model of probability 1 can lose it",
    corrected: "draws are below 1",
  },
  jitterUnused: {
    harness: "jitter is drawn and never used",
    corrected: "jitter moves the arrival, not the deadline",
  },
  countDependency: {
    harness: "completions of the upstream model are counted: one drop starves all later frames",
    corrected: "a frame waits for the upstream frame of its number",
  },
  noCascade: {
    harness: "a frame stays queued when its upstream frame is dropped",
    corrected: "it is dropped at the same event",
  },
  headOnly: {
    harness: "only heads of queues are looked at",
    corrected: "every queued request is",
  },
  retireMargin: {
    harness: "jobs retire 0.01 ms early",
    corrected: "jobs retire at their end",
  },
  stopEarly: {
    harness: "the run stops when the last request is generated; what is unfinished counts nowhere",
    corrected: "the run goes on until all is executed or dropped",
  },
  qoeSquared: {
    harness: "the share of executed frames enters a score twice",
    corrected: "once",
  },
  unclampedEnergy: {
    harness: "energy scores are negative above the limit",
    corrected: "energy scores are in [0, 1]",
  },
  silentAbsent: {
    harness: "a model without logged frames leaves the mean unseen",
    corrected: "it is listed as not required",
  },
  float32: {
    harness: "times and scores are rounded to single precision",
    corrected: "double precision",
  },
} as const;

/** One of {@linkcode SWITCHES}. */
export type SwitchName = keyof typeof SWITCHES;

/** What is on. */
export type Switches = Readonly<Record<SwitchName, boolean>>;

/** The names, in the order of {@linkcode SWITCHES}. */
export const SWITCH_NAMES: readonly SwitchName[] = Object.keys(SWITCHES) as SwitchName[];

/** All on for compat, all off for the others. */
export function switchesOfMode(mode: Mode): Switches {
  return Object.fromEntries(SWITCH_NAMES.map((name) => [name, mode === "compat"])) as Switches;
}

/** The names of those that are on. */
export function namesOn(switches: Switches): SwitchName[] {
  return SWITCH_NAMES.filter((name) => switches[name]);
}

/**
 * A mode's switches with some of them changed: `NAME` alone is on and all that are not named are off, whatever the mode; `NAME=on` and `NAME=off` change
 * one of the mode's.
 *
 * @throws {RangeError} If a name is unknown, or both forms are mixed.
 * @example The harness with one defect repaired, and the corrected mode with one defect
 * ```ts
 * import assert from "node:assert/strict";
 * assert.equal(namesOn(readSwitches("compat", ["qoeSquared=off"])).length, 13);
 * assert.deepEqual(namesOn(readSwitches("corrected", ["headOnly"])), ["headOnly"]);
 * ```
 */
export function readSwitches(mode: Mode, changes: readonly string[]): Switches {
  const parts = changes.map((change) => {
    const [, name, value] = /^([^=]*)(?:=(on|off))?$/.exec(change) ?? [];
    if (name === undefined || !Object.hasOwn(SWITCHES, name)) {
      throw new RangeError(
        `switch: ${JSON.stringify(change)} found, NAME, NAME=on or NAME=off wanted, NAME one of ${
          SWITCH_NAMES.join(", ")
        }`,
      );
    }
    return { name: name as SwitchName, value };
  });
  const named = parts.filter(({ value }) => value === undefined);
  if (named.length > 0 && named.length < parts.length) {
    throw new RangeError(
      `switches: ${
        changes.join(", ")
      } found: those without a value name all that are on, so none can have =on or =off`,
    );
  }
  const switches: Record<SwitchName, boolean> = {
    ...switchesOfMode(named.length > 0 ? "corrected" : mode),
  };
  for (const { name, value } of parts) switches[name] = value !== "off";
  return switches;
}
