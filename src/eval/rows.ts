/** Rows of evaluation files: JSON lines or plain text, gzip or not. What is wrong in one is told with its file and line. */
import { FormatError } from "../errors.ts";
import type { ClozeRow } from "./lambada.ts";
import type { ChoiceRow } from "./multiple_choice.ts";
import type { SummaryRow } from "./summary.ts";

/** The largest text, unpacked: the largest file of the tasks has 11 MB, and a small gzip file can hold any amount. */
const MAX_BYTES = 512 << 20;

/** A row and the line it stands in, from 1. */
export interface Numbered<T> {
  readonly line: number;
  readonly row: T;
}

/**
 * The text of a file; unpacked if it begins as gzip does.
 *
 * @param file what it is called in errors
 * @throws {FormatError} If it is not UTF-8, is broken gzip, or too large.
 */
export async function readText(blob: Blob, file: string): Promise<string> {
  if (blob.size > MAX_BYTES) throw tooLarge(file);
  const start = new Uint8Array(await blob.slice(0, 2).arrayBuffer());
  const isGzip = start[0] === 0x1f && start[1] === 0x8b;
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "", bytes = 0;
  try {
    if (!isGzip) return decoder.decode(await blob.arrayBuffer());
    const reader = (blob.stream() as ReadableStream<Uint8Array<ArrayBuffer>>)
      .pipeThrough(new DecompressionStream("gzip")).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text + decoder.decode();
      bytes += value.length;
      if (bytes > MAX_BYTES) {
        await reader.cancel();
        throw tooLarge(file);
      }
      text += decoder.decode(value, { stream: true });
    }
  } catch (cause) {
    if (cause instanceof FormatError) throw cause;
    const what = isGzip ? "gzip that can't be unpacked to UTF-8 text" : "text that is not UTF-8";
    throw new FormatError(file, bytes, `${what}: ${(cause as Error).message}`, { cause });
  }
}

function tooLarge(file: string): FormatError {
  return new FormatError(file, 0, `more than ${MAX_BYTES >> 20} MB of text: give a part of it`);
}

/**
 * The rows of a text of JSON lines; empty lines are passed over.
 *
 * @param read makes a row of a line's value, or throws what is wrong with it
 * @param most rows that are read at most: what comes after them is not looked at
 * @throws {FormatError} With the line's number, if one is not JSON or `read` refuses it, and where there is none at all.
 */
export function parseRows<T>(
  text: string,
  file: string,
  read: (value: unknown) => T,
  most: number = Infinity,
): Numbered<T>[] {
  const rows: Numbered<T>[] = [], encoder = new TextEncoder();
  let line = 0, offset = 0;
  for (let at = 0; at < text.length && rows.length < most;) {
    const newline = text.indexOf("\n", at), end = newline < 0 ? text.length : newline;
    const content = text.slice(at, end);
    line++;
    if (content.trim() !== "") {
      try {
        rows.push({ line, row: read(JSON.parse(content)) });
      } catch (cause) {
        const { message, name } = cause as Error;
        const detail = name === "SyntaxError" ? `JSON that cannot be parsed: ${message}` : message;
        throw new FormatError(file, offset, `line ${line}: ${detail}`, { cause });
      }
    }
    offset += encoder.encode(content).length + 1;
    at = end + 1;
  }
  if (rows.length === 0) throw new FormatError(file, 0, "no rows, at least one wanted");
  return rows;
}

/** A row of `{ctx, choices, gold, lead?}`; `lead` says which endings of HellaSwag begin with a space of their own, null where that is not known. */
export function readChoices(value: unknown): ChoiceRow {
  const row = objectOf(value), choices = row["choices"], lead = row["lead"] ?? null;
  if (!Array.isArray(choices) || choices.length < 2 || !choices.every(isText)) {
    throw new RangeError(`choices: ${show(choices)} found, at least two texts wanted`);
  }
  if (lead !== null && !(Array.isArray(lead) && lead.length === choices.length)) {
    throw new RangeError(
      `lead: ${show(lead)} found, null, or one 0, 1 or null for each of ${choices.length} choices wanted`,
    );
  }
  return {
    contexts: [textOf(row, "ctx")],
    continuations: choices.map((choice, i) => lead?.[i] === 1 ? ` ${choice}` : choice),
    gold: goldOf(row, choices.length),
  };
}

/** A row of `{ctx: [first, second], target, gold}`: WinoGrande's. */
export function readContexts(value: unknown): ChoiceRow {
  const row = objectOf(value), contexts = row["ctx"];
  if (!Array.isArray(contexts) || contexts.length < 2 || !contexts.every(isText)) {
    throw new RangeError(`ctx: ${show(contexts)} found, at least two texts wanted`);
  }
  return { contexts, continuations: [textOf(row, "target")], gold: goldOf(row, contexts.length) };
}

/** A row of `{ctx, target}`: LAMBADA's. */
export function readCloze(value: unknown): ClozeRow {
  const row = objectOf(value);
  return { context: textOf(row, "ctx"), target: textOf(row, "target") };
}

/** A row of `{article, summary}`: XSum's. */
export function readSummary(value: unknown): SummaryRow {
  const row = objectOf(value);
  return { article: textOf(row, "article"), summary: textOf(row, "summary") };
}

/** The documents of a text that has lines `<|endoftext|>` between them; null for a text without. */
export function splitDocuments(text: string): string[] | null {
  const documents = text.split(/^<\|endoftext\|>\r?\n?/m);
  if (documents.length === 1) return null;
  return documents.map((one) => one.replace(/\r?\n$/, "")).filter((one) => one !== "");
}

/** The text of a row of `{text}`: C4's. */
export function readDocument(value: unknown): string {
  return textOf(objectOf(value), "text");
}

/** What makes a row of a line, by the kind of task that has such rows. */
export const READERS: {
  readonly documents: typeof readDocument;
  readonly choices: typeof readChoices;
  readonly contexts: typeof readContexts;
  readonly cloze: typeof readCloze;
  readonly summary: typeof readSummary;
} = {
  documents: readDocument,
  choices: readChoices,
  contexts: readContexts,
  cloze: readCloze,
  summary: readSummary,
};

function objectOf(value: unknown): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new RangeError(`${show(value)} found, a JSON object wanted`);
  }
  return value as Readonly<Record<string, unknown>>;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value.trim() !== "";
}

function textOf(row: Readonly<Record<string, unknown>>, name: string): string {
  const value = row[name];
  if (!isText(value)) throw new RangeError(`${name}: ${show(value)} found, a text wanted`);
  return value;
}

function goldOf(row: Readonly<Record<string, unknown>>, count: number): number {
  const gold = row["gold"];
  if (!Number.isInteger(gold) || (gold as number) < 0 || (gold as number) >= count) {
    throw new RangeError(`gold: ${show(gold)} found, 0 to ${count - 1} wanted`);
  }
  return gold as number;
}

/** A value in a message: its beginning. */
function show(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}
