/** The server under a short load of every kind of client; bench/serve/main.ts is the long one, which looks at memory too. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { growth, type LoadReport, runLoad } from "../../bench/serve/load.ts";
import { stories } from "../support/cli.ts";
import { withServe } from "../support/serve.ts";
import { skipWithout } from "../support/shared.ts";

const skip = skipWithout("data/models/stories260K/stories260K.bin") ||
  (process.platform === "win32" && "no signals");
const folder = mkdtempSync(join(tmpdir(), "rsparse-load-"));
after(() => rmSync(folder, { recursive: true, force: true }));

test(
  "serve: every text is right, whoever else reads slowly, goes away or sends what it should not",
  { skip },
  async () => {
    const key = "a-key-under-load", maxBody = 50_000;
    writeFileSync(join(folder, "keys"), key);
    const args = [
      "-m",
      stories(),
      "--threads",
      "1",
      "--api-key-file",
      join(folder, "keys"),
      "--max-body",
      String(maxBody),
    ];
    await withServe([...args, "--max-sequences", "8", "--max-queue", "4"], async ({ url, said }) => {
      const isEnough = ({ right, slow, left, busy, refused, errors }: LoadReport): boolean =>
        (right > 20 && slow > 0 && left > 0 && busy > 0 && Object.keys(refused).length === 3) ||
        errors.length > 0;
      const report = await runLoad({ url, key, clients: 32, seconds: 10, maxBody, isEnough });
      assert.deepEqual(report.errors, []);
      assert.ok(isEnough(report), JSON.stringify(report));
      assert.deepEqual(Object.keys(report.refused), ["400", "401", "413"]);
      assert.ok(report.rss.length > 5 && report.rss.every((bytes) => bytes > 1e7), String(report.rss));
      assert.doesNotMatch(said(), /error/);
    });
  },
);

test("growth: of the end over the beginning, without the warm-up", () => {
  assert.equal(growth([1, 5, 8, 8, 8, 8, 8, 8, 8, 10, 10], 2), 0.25);
  assert.equal(growth([100, 10, 10, 10, 10, 10], 1), 0);
});
