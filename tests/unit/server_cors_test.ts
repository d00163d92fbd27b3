/** Pages of other origins: over HTTP, as a page's own requests can't be given an origin. */
import assert from "node:assert/strict";
import { type IncomingMessage, request } from "node:http";
import { test } from "node:test";
import { detectPlatform } from "../../src/platform/detect.ts";
import { createHandler, type HandlerOptions } from "../../src/server/mod.ts";
import { CHAT_FOLDER, chatModel } from "../support/chat_model.ts";
import { skipWithout } from "../support/shared.ts";

const HOST = "127.0.0.1", CHAT = "/v1/chat/completions";

/** Runs `use` on a server of the babbling model; it is handed a way to ask with headers of one's own. */
async function withServer(
  options: HandlerOptions,
  use: (
    ask: (
      method: string,
      path: string,
      headers: Record<string, string>,
      body?: string,
    ) => Promise<IncomingMessage>,
  ) => Promise<void>,
): Promise<void> {
  await using model = await chatModel();
  const server = await (await detectPlatform()).serve!(createHandler(model, options), {
    hostname: HOST,
    port: 0,
  });
  try {
    await use((method, path, headers, body) =>
      new Promise((resolve, reject) => {
        const asking = request({ host: HOST, port: server.port, method, path, headers }, (answer) =>
          resolve(answer.resume()));
        asking.on("error", reject).end(body);
      })
    );
  } finally {
    await server.close();
  }
}

test(
  "cors: for the origins that were named, refusals and streams too",
  { skip: skipWithout(CHAT_FOLDER) },
  async () => {
    await withServer({ cors: ["https://a.test", "https://b.test"], apiKeys: ["k"] }, async (ask) => {
      for (
        const [origin, allowed] of [["https://b.test", "https://b.test"], [
          "https://c.test",
          undefined,
        ]] as const
      ) {
        for (const path of ["/health", "/v1/models", "/nothing"]) {
          const { headers } = await ask("GET", path, { origin });
          assert.equal(headers["access-control-allow-origin"], allowed, path);
          assert.match(headers.vary ?? "", /origin/i);
        }
      }
      const { statusCode, headers } = await ask("OPTIONS", CHAT, {
        origin: "https://a.test",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
      });
      assert.equal(statusCode, 204);
      assert.equal(headers["access-control-allow-origin"], "https://a.test");
      assert.match(headers["access-control-allow-methods"] ?? "", /POST/);
      assert.match(headers["access-control-allow-headers"] ?? "", /authorization.*content-type/);
    });
    const body = JSON.stringify({ messages: [{ role: "user", content: "Hi" }], max_tokens: 2, stream: true });
    const json = { "content-type": "application/json", origin: "https://x.test" };
    // the command line has a list of them
    for (const all of ["*", ["*"]]) {
      await withServer({ cors: all }, async (ask) => {
        const { statusCode, headers } = await ask("POST", CHAT, json, body);
        assert.deepEqual([statusCode, headers["access-control-allow-origin"]], [200, "*"]);
      });
    }
    await withServer({}, async (ask) => {
      const { statusCode, headers } = await ask("POST", CHAT, json, body);
      assert.deepEqual([statusCode, headers["access-control-allow-origin"]], [200, undefined]);
      assert.equal((await ask("OPTIONS", CHAT, json)).statusCode, 405);
    });
  },
);
