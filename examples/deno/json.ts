/**
 * Generates a JSON object of some fields about a text, and nothing else, whatever the model says. All that it may do is read the model:
 *
 *     deno run --allow-read=models/tiny.rsparse examples/deno/json.ts "A knight of 31 years found a cat." name:string age:number pet:string
 *
 * The output is valid by construction, not by trying again: braces, names and quotes are written here, and of a value the model's best token is taken that keeps it one:
 * of a string what has no quote, backslash or control character in it (a quote ends it), of a number digits, of a boolean and a choice (`size:small|large`) what goes on towards one
 * of its texts. Everything written is read by the model as well, so a value follows from those before it.
 */
import { Model } from "rsparse";

const [text, ...specs] = Deno.args;
const fields = specs.map((spec) => /^([^:"\\]+):(.+)$/.exec(spec)?.slice(1) as [string, string] | undefined);
if (text === undefined || fields.length === 0 || fields.includes(undefined)) {
  console.error(
    'usage: json.ts TEXT NAME:TYPE …   (string, number, boolean, or texts such as "small|large")',
  );
  Deno.exit(2);
}
await using model = await Model.load("tiny");
using session = model.session({ sparsity: 0.5 });
const { tokenizer } = model.description;

/** Most tokens of a value. */
const MOST = 24;
let output = "", logits: Float32Array;

/** What is written by the program goes through the model like its own words. */
async function write(said: string): Promise<void> {
  output += said;
  logits = await session.prefillAsync(tokenizer.encode(said));
}

/** What a token adds to a value, and whether the value ends with it; null: it may not come here. */
type Rule = (value: string, token: string) => { readonly add: string; readonly ends: boolean } | null;

const string: Rule = (value, token) => {
  const [add, after] = token.split('"', 2) as [string, string?];
  // deno-lint-ignore no-control-regex
  if (/[\u0000-\u001f\\\ufffd]/.test(add)) return null;
  const begun = value === "" ? add.trimStart() : add;
  if (after !== undefined) return value + begun === "" ? null : { add: begun, ends: true };
  return begun === "" ? null : { add: begun, ends: false };
};
const number: Rule = (value, token) => {
  const add = value === "" ? token.trimStart() : token, digits = /^-?\d*/.exec(value + add)![0];
  // no leading zeros in JSON
  if (!/^-?(0|[1-9]\d{0,8})$/.test(digits) || digits.length < value.length) return null;
  if (digits.length < (value + add).length) return { add: digits.slice(value.length), ends: true };
  return add === "" ? null : { add, ends: digits === "0" || digits.length > 8 };
};
function oneOf(texts: readonly string[]): Rule {
  return (value, token) => {
    const add = value === "" ? token.trimStart() : token, said = value + add;
    return add !== "" && texts.some((text) => text.startsWith(said))
      ? { add, ends: texts.includes(said) }
      : null;
  };
}

/** The value that the model's best tokens make by a rule. */
async function value(rule: Rule, fallback: string): Promise<string> {
  let said = "";
  for (let n = 0; n < MOST; n++) {
    const ids = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!);
    let next: { id: number; add: string; ends: boolean } | null = null;
    for (const id of ids) {
      const found = tokenizer.isSpecial(id) ? null : rule(said, tokenizer.decode([id]));
      if (found !== null) {
        next = { id, ...found };
        break;
      }
    }
    if (next === null) break;
    said += next.add;
    if (next.ends) return said;
    logits = await session.decodeAsync(next.id);
  }
  return said === "" ? fallback : said;
}

const names = fields.map((field) => field![0]);
logits = await session.prefillAsync(
  model.tokenize(`${text}\n\nAs JSON, with ${names.join(", ")}:\n`),
);
for (const [i, field] of fields.entries()) {
  const [name, type] = field!;
  await write(`${i === 0 ? "{" : ", "}${JSON.stringify(name)}: `);
  if (type === "number") output += await value(number, "0");
  else if (type === "boolean") output += await value(oneOf(["true", "false"]), "false");
  else if (type === "string") {
    await write('"');
    output += await value(string, "");
    await write('"');
  } else {
    const texts = type.split("|"), said = await value(oneOf(texts), "");
    // cut short, it is what it began as
    output += JSON.stringify(texts.find((text) => text.startsWith(said)));
  }
}
output += "}";
console.log(JSON.stringify(JSON.parse(output)));
