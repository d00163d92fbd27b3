/** What the server is tested with: OpenAI's own clients, for JavaScript and Python, and Caddy. Pinned, and installed where tests run alone. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { OPENAI_FOLDER, PYTHON_CLIENT } from "../tests/support/openai.ts";

/** Installs what is not there as it is pinned. Returns why what comes by pip can't be had, or null. */
export function installOpenai(): string | null {
  installOnce("package-lock.json", () => {
    run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
  });
  try {
    installOnce("requirements.txt", () => {
      const folder = join(OPENAI_FOLDER, "build", "python");
      rmSync(folder, { recursive: true, force: true });
      const python = ["python3", "python"].find((name) => spawnSync(name, ["--version"]).status === 0);
      if (python === undefined) throw new Error("there is no Python");
      run(python, ["-m", "venv", folder]);
      run(PYTHON_CLIENT, [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        "requirements.txt",
      ]);
    });
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Runs `install` unless it ran for what `file` says now. */
function installOnce(file: string, install: () => void): void {
  const wanted = readFileSync(join(OPENAI_FOLDER, file), "utf8"),
    stamp = join(OPENAI_FOLDER, "build", `${file}.installed`);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  console.error(`installing OpenAI's client for the tests, ${file} …`);
  install();
  mkdirSync(join(OPENAI_FOLDER, "build"), { recursive: true });
  writeFileSync(stamp, wanted);
}

function run(command: string, args: readonly string[]): void {
  const { status, error } = spawnSync(command, args, {
    cwd: OPENAI_FOLDER,
    stdio: ["ignore", 2, 2],
    shell: process.platform === "win32",
  });
  if (status !== 0) {
    throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit status ${status}`}`);
  }
}
