/**
 * Drives the page of `examples/browser` in a real browser: Chromium by its own protocol, Firefox by WebDriver BiDi, both through Playwright, which is installed
 * with the test runtimes. Whatever a page must never do (log an error, ask another origin for something) fails the test that used it.
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, isAbsolute, join } from "node:path";
import process from "node:process";
import { servePage } from "../../examples/browser/serve.ts";
import { findChromium } from "./chromium.ts";
import { findFirefox } from "./firefox.ts";
import { rootPath } from "./shared.ts";

/** What is used of Playwright's elements. */
export interface Locator {
  click(): Promise<void>;
  fill(text: string): Promise<void>;
  press(key: string): Promise<void>;
  focus(): Promise<void>;
  isVisible(): Promise<boolean>;
  isDisabled(): Promise<boolean>;
  isChecked(): Promise<boolean>;
  inputValue(): Promise<string>;
  innerText(): Promise<string>;
  textContent(): Promise<string | null>;
  getAttribute(name: string): Promise<string | null>;
  setInputFiles(paths: readonly string[]): Promise<void>;
  waitFor(options: { state: "visible" | "hidden"; timeout?: number }): Promise<void>;
  count(): Promise<number>;
  last(): Locator;
  locator(selector: string): Locator;
}

/** What is used of Playwright's pages. */
export interface Page {
  goto(url: string): Promise<unknown>;
  reload(): Promise<unknown>;
  locator(selector: string): Locator;
  getByRole(role: string, options: { name: string | RegExp; exact?: boolean }): Locator;
  evaluate<R, A>(body: (argument: A) => R | Promise<R>, argument?: A): Promise<R>;
  waitForFunction<A>(
    body: (argument: A) => unknown,
    argument?: A,
    options?: { timeout?: number },
  ): Promise<unknown>;
  setViewportSize(size: { width: number; height: number }): Promise<void>;
  emulateMedia(options: { colorScheme?: "light" | "dark"; reducedMotion?: "reduce" }): Promise<void>;
  screenshot(options: { path: string; fullPage?: boolean }): Promise<unknown>;
  on(event: "console", listen: (message: { type(): string; text(): string }) => void): void;
  on(event: "pageerror", listen: (error: Error) => void): void;
  on(event: "request", listen: (request: { url(): string }) => void): void;
  keyboard: { press(key: string): Promise<void> };
  context(): Context;
}

interface Context {
  newPage(): Promise<Page>;
  close(): Promise<void>;
  pages(): Page[];
  newCDPSession(page: Page): Promise<{ send(method: string, parameters?: object): Promise<unknown> }>;
  grantPermissions(permissions: readonly string[]): Promise<void>;
  setDefaultTimeout(ms: number): void;
}

interface BrowserType {
  launchPersistentContext(folder: string, options: object): Promise<Context>;
}

/** The browsers that the page is tested in. */
export const BROWSERS = ["chromium", "firefox"] as const;
/** One of {@linkcode BROWSERS}. */
export type BrowserName = (typeof BROWSERS)[number];

/** The browser of this run: `RSPARSE_PAGE_BROWSER`, which the runner sets; Chromium where a person runs a file. */
export const BROWSER: BrowserName = process.env["RSPARSE_PAGE_BROWSER"] === "firefox"
  ? "firefox"
  : "chromium";

/** How the page is opened. */
export interface OpenOptions {
  /** With COOP and COEP. */
  readonly isolated: boolean;
  /** Files that the server has beside the page's own, by their path in the URL. */
  readonly extra?: ReadonlyMap<string, string>;
  /** Another server's origin that the page may ask, since the test tells it to. */
  readonly allow?: string;
}

/** An open page. */
export interface OpenPage {
  readonly page: Page;
  /** Where it is served, with a slash at the end. */
  readonly url: string;
  /** Errors that were logged since it was opened, or since they were taken. */
  takeErrors(): string[];
}

/** A model takes its time on a machine that is busy with other tests. */
const TIMEOUT_MS = 60_000;

/** Serves the built page, opens it in a browser with an empty profile, and hands it to `use`. @throws {Error} What `use` throws, or if the page did what it must not. */
export async function withPage(options: OpenOptions, use: (open: OpenPage) => Promise<void>): Promise<void> {
  const { isolated, extra, allow } = options;
  const { server, url } = await servePage({ folder: rootPath("build/page"), port: 0, isolated, extra });
  const profile = mkdtempSync(join(tmpdir(), "rsparse-page-"));
  let errors: string[] = [];
  const strangers: string[] = [];
  try {
    const context = await launch(profile);
    try {
      context.setDefaultTimeout(TIMEOUT_MS);
      const page = context.pages()[0] ?? await context.newPage();
      page.on("console", (message) => {
        if (message.type() === "error") errors.push(message.text());
      });
      page.on("pageerror", (error) => errors.push(String(error)));
      page.on("request", (request) => {
        const { origin, protocol } = new URL(request.url());
        if (/^https?:$/.test(protocol) && `${origin}/` !== url && origin !== allow) {
          strangers.push(request.url());
        }
      });
      await page.goto(url);
      await page.waitForFunction(() => document.querySelector("#shelf-note")?.textContent !== "");
      const takeErrors = (): string[] => {
        const taken = errors;
        errors = [];
        return taken;
      };
      try {
        await use({ page, url, takeErrors });
      } catch (error) {
        // a wait that ends says what for, and not what was there instead
        const shown = await page.evaluate(() => `${document.visibilityState}\n${document.body.innerText}`);
        throw new Error(
          `${(error as Error).message}\nlogged: ${errors.join("\n") || "nothing"}\nshown:\n${shown}`,
          {
            cause: error,
          },
        );
      }
    } finally {
      await context.close();
    }
  } finally {
    server.close();
    server.closeAllConnections();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
  assert.deepEqual(errors, [], "the page logged errors");
  assert.deepEqual(strangers, [], "the page asked another origin");
}

/** A profile of its own, so that what one test keeps in the browser is not there in the next. */
async function launch(profile: string): Promise<Context> {
  // it is CommonJS, and its own ESM wrapper is taken for more of it where no package manager of Deno's has put it there
  const playwright = createRequire(import.meta.url)(
    rootPath("tests/runtimes/node_modules/playwright-core"),
  ) as { readonly [name in BrowserName]: BrowserType };
  const viewport = { width: 1280, height: 800 };
  if (BROWSER === "firefox") {
    const firefox = findFirefox();
    if (firefox === null) throw new Error("Cannot run Firefox: there is none: set RSPARSE_FIREFOX");
    // this channel means WebDriver BiDi, which every Firefox speaks
    return await playwright.firefox.launchPersistentContext(profile, {
      channel: "moz-firefox",
      executablePath: pathOf(firefox.path),
      viewport,
    });
  }
  const chromium = findChromium();
  if (chromium === null) throw new Error("Cannot run Chromium: there is none: set RSPARSE_CHROMIUM");
  return await playwright.chromium.launchPersistentContext(profile, {
    executablePath: pathOf(chromium.path),
    env: { ...process.env, ...chromium.env },
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
    viewport,
  });
}

/** Where a program of the PATH lies, as Playwright wants it. */
function pathOf(program: string): string {
  if (isAbsolute(program)) return program;
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.map((folder) => join(folder, program)).find((path) => existsSync(path)) ?? program;
}

/** Chooses files in the page's dialog and waits until the model is open. */
export async function openFiles(page: Page, paths: readonly string[]): Promise<void> {
  await page.locator("#tab-model").click();
  await page.locator("#files").setInputFiles(paths);
  await page.locator("#chat").waitFor({ state: "visible" });
}

/** Sets the fields under Settings; without a person's keys, as drivers differ in how they fill in numbers. */
export async function settings(
  page: Page,
  values: { readonly temperature: number; readonly maxTokens: number; readonly seed?: number },
): Promise<void> {
  await page.evaluate(({ temperature, maxTokens, seed }) => {
    const set = (id: string, value: number | undefined): void => {
      document.querySelector<HTMLInputElement>(id)!.value = value === undefined ? "" : String(value);
    };
    set("#temperature", temperature);
    set("#max-tokens", maxTokens);
    set("#seed", seed);
  }, values);
}

/** Sends a message. */
export async function send(page: Page, text: string): Promise<void> {
  await page.locator("#prompt").fill(text);
  await page.locator("#prompt").press("Enter");
}

/** Waits for the end of an answer; returns its text and how it was made. */
export async function answerOf(page: Page): Promise<{ text: string; meta: string }> {
  await page.locator("#stop").waitFor({ state: "hidden" });
  const last = page.locator("#messages li.assistant").last();
  return {
    text: await last.locator(".text").textContent() ?? "",
    meta: await last.locator(".meta").textContent() ?? "",
  };
}

/** Waits until an answer has at least so many characters. */
export async function streamed(page: Page, characters: number): Promise<void> {
  await page.waitForFunction(
    (least) => (document.querySelector("#messages li:last-child .text")?.textContent ?? "").length >= least,
    characters,
  );
}
