/** Folders that options name. */
import type { Platform } from "../../platform/platform.ts";
import { UsageError } from "../errors.ts";
import { checkOutput } from "../output_file.ts";

/** Makes the folder where there is none, and finds out before the work that `name` can be written there. */
export async function prepareFolder(platform: Platform, folder: string, name: string): Promise<void> {
  if (folder === "") throw new UsageError("Cannot write to a folder without a name: give one");
  const found = await platform.stat(folder).catch(() => null);
  if (found?.kind === "file") {
    throw new Error(`Cannot write to ${folder}: it is a file: give a folder's name`);
  }
  try {
    if (found === null) await platform.makeDir(folder);
  } catch (error) {
    throw new Error(`Cannot make the folder ${folder}: ${(error as Error).message}`, { cause: error });
  }
  await checkOutput(platform, `${folder}/${name}`, "figures");
}
