/** What can be evaluated: names, the files that hold their rows, what is measured. */

/** How a task's file is read and its rows are scored. */
export type TaskKind =
  /** One context, several answers. */
  | "choices"
  /** Several contexts, one continuation. */
  | "contexts"
  /** A passage and its last word. */
  | "cloze"
  /** An article and its summary. */
  | "summary"
  /** One text, tokenised whole. */
  | "text"
  /** Documents, each followed by a separator token. */
  | "documents";

/** One task. */
export interface Task {
  /** As users type it. */
  readonly name: string;
  /** How it is read and scored. */
  readonly kind: TaskKind;
  /** Names of its file in a data folder, without `.gz`; null: it has none, the user names one. */
  readonly file: RegExp | null;
  /** Rows or pieces that are taken unless the user says how many; null: all. */
  readonly limit: number | null;
  /** Whether accuracy for an answer's length is measured too. */
  readonly accNorm: boolean;
}

function rows(name: string, kind: TaskKind, accNorm: boolean): Task {
  return { name, kind, file: new RegExp(`^${name}(\\.[\\w-]+)?\\.jsonl$`), limit: null, accNorm };
}

/** Every task, in the order in which they are listed. */
export const TASKS: readonly Task[] = [
  { name: "wikitext2", kind: "text", file: /^wikitext2([._-][\w.-]+)?\.txt$/, limit: null, accNorm: false },
  { name: "c4", kind: "documents", file: /^c4(_sample)?(\.[\w-]+)?\.jsonl$/, limit: 64, accNorm: false },
  { name: "text", kind: "text", file: null, limit: null, accNorm: false },
  rows("arc_easy", "choices", true),
  rows("arc_challenge", "choices", true),
  rows("openbookqa", "choices", true),
  rows("piqa", "choices", true),
  rows("winogrande", "contexts", false),
  rows("boolq", "choices", false),
  rows("hellaswag", "choices", true),
  rows("sciq", "choices", true),
  rows("lambada_openai", "cloze", false),
  rows("xsum", "summary", false),
];

/** A task as a user names it: `piqa`, or with the file that holds its rows, `piqa:my/rows.jsonl`. */
export interface TaskChoice {
  /** What is measured. */
  readonly task: Task;
  /** What it is called in results: its name, for `text` with the file's. */
  readonly name: string;
  /** Path of its file, or null: it is looked for in the data folder. */
  readonly file: string | null;
}

/**
 * Reads a list such as `arc_easy,text:notes.txt`.
 *
 * @throws {RangeError} If there is no such task, none at all, or one twice; the message lists those there are.
 */
export function parseTasks(list: string): TaskChoice[] {
  const choices = list.split(",").map((part) => part.trim()).filter((part) => part !== "").map(
    (part): TaskChoice => {
      const colon = part.indexOf(":"), name = colon < 0 ? part : part.slice(0, colon);
      const task = TASKS.find((task) => task.name === name);
      if (task === undefined) throw new RangeError(`there is no task ${JSON.stringify(name)}: ${known()}`);
      const file = colon < 0 ? null : part.slice(colon + 1);
      if (file === "" || (file === null && task.file === null)) {
        throw new RangeError(`task ${name} needs a file: ${name}:FILE`);
      }
      return { task, file, name: task.file === null ? part : name };
    },
  );
  if (choices.length === 0) throw new RangeError(`there are no tasks in the list: ${known()}`);
  const twice = choices.find(({ name }, i) => choices.findIndex((other) => other.name === name) < i);
  if (twice !== undefined) throw new RangeError(`task ${twice.name} is there twice`);
  return choices;
}

function known(): string {
  return `tasks are ${TASKS.map(({ name, file }) => file === null ? `${name}:FILE` : name).join(", ")}`;
}

/**
 * The file of a task among the names in a folder: `piqa.jsonl` before `piqa.dev.jsonl` before others, gzip or not.
 *
 * @returns null where there is none
 * @throws {RangeError} If it can't be told which of several is meant.
 */
export function findTaskFile(task: Task, names: readonly string[]): string | null {
  const plain = (name: string): string => name.replace(/\.gz$/, "");
  const found = names.filter((name) => task.file?.test(plain(name)));
  for (
    const some of [
      found.filter((name) => plain(name) === `${task.name}.jsonl`),
      found.filter((name) => plain(name).includes(".dev.")),
      found,
    ]
  ) {
    if (some.length === 1) return some[0]!;
    if (some.length > 1) {
      throw new RangeError(
        `which file is meant can't be told from ${some.join(", ")}: name it, ${task.name}:FILE`,
      );
    }
  }
  return null;
}
