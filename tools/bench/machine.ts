/** What a benchmark ran on. */
import { cpus, loadavg, totalmem } from "node:os";
import process from "node:process";
import type { Machine } from "./schema.ts";

/** Looks at the machine; the load before is given back at the end. */
export function machineNow(before: number | null): Machine {
  const after = loadNow();
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch}`,
    load: before === null || after === null ? null : [before, after],
  };
}

/** Processes that want a core, mean of a minute; null where the system keeps no count. */
export function loadNow(): number | null {
  return process.platform === "win32" ? null : loadavg()[0] ?? null;
}
