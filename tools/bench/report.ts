/** The report in Markdown: pure, from what `latest.json` holds. */
import type { Row } from "../../src/cli/bench/rows.ts";
import { SHAPE_NAMES } from "../../src/cli/bench/shapes.ts";
import { type Chart, engineOf, readSpeeds, roofPoints } from "./charts.ts";
import { NOISE, number, spread, table, times } from "./markdown.ts";
import { DTYPES, PROMPTS, SPARSITIES } from "./plan.ts";
import { crowdOf, type MicroCase, type Results, type Run } from "./schema.ts";

/** How a report is put together. */
export interface ReportOptions {
  readonly title: string;
  readonly charts: readonly Pick<Chart, "file" | "alt">[];
  /** What stands before a plot's file name. */
  readonly folder: string;
  /** Every kernel and matrix, or only what the plots show. */
  readonly full: boolean;
  /** Sections of other origin, before what was benchmarked. */
  readonly lead?: string;
}

/** The whole report. */
export function report(results: Results, options: ReportOptions): string {
  const plot = (file: string): string => {
    const chart = options.charts.find((chart) => chart.file === file);
    return chart === undefined ? "" : `![${chart.alt}](${options.folder}${chart.file})`;
  };
  const parts = [
    `# ${options.title}`,
    ...(options.lead === undefined ? [about(results)] : [options.lead, section("Speed", about(results))]),
    section("Whole tokens", plot("decode.svg"), tokenTable(results.runs)),
    section(
      "Speed-up over sparsity",
      ...SHAPE_NAMES.map((shape) => plot(`speedup-${shape}.svg`)),
      speedupTable(results.runs),
      balance(results.runs),
    ),
    section("Roofline", plot("roofline.svg"), roofTable(results.runs)),
    section("Others on the same file", peerTable(results)),
    options.full ? section("Matrices", matrixTable(results.runs)) : "",
    options.full ? section("Kernels alone", microTable(results)) : "",
    section("Not measured", missingList(results)),
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

function section(title: string, ...parts: readonly string[]): string {
  const there = parts.filter((part) => part !== "");
  return there.length === 0 ? "" : [`## ${title}`, ...there].join("\n\n");
}

function about({ date, settings, machine, versions, runs, micro, peers }: Results): string {
  const ends = [...runs, ...micro, ...peers].map(({ at }) => at).sort();
  const gigabytes = (machine.memoryBytes / 2 ** 30).toFixed(0);
  const lines = [
    `${date}; ${machine.cpu}, ${machine.cores} cores, ${gigabytes} GiB, ${machine.platform}; ${
      Object.values(versions).join(", ")
    }. Made by \`deno task bench\`${settings.quick ? " with `--quick`" : ""}, runs ended from ${
      ends[0] ?? "-"
    } to ${ends.at(-1) ?? "-"}.`,
    "Medians, with the range of all samples in brackets; variants of a run take turns in one process. Where nothing else is said, one thread.",
  ];
  if (machine.load !== null) {
    const [before, after] = machine.load;
    const busy = crowdOf(machine.load) > 0.5;
    lines.push(
      `Processes that wanted a core, mean of a minute: ${before.toFixed(1)} at the start, ${
        after.toFixed(1)
      } at the end, this one among them. ` +
        (busy
          ? "**The machine was busy with other work**: compare within a row, not with another day; ratios of sparse over dense rise where memory is shared."
          : "The machine was quiet."),
    );
  }
  return lines.join("\n");
}

/** Of a prompt of so many tokens: either may have failed, so the place among runs says nothing. */
function prefillOf(runs: readonly Run[], tokens: number): Row | undefined {
  return runs.find((run) => run.what === "prefill" && run.tokens === tokens)?.rows[0];
}

function tokenTable(runs: readonly Run[]): string {
  const keys = [
    ...new Set(
      runs.filter(({ what }) => what !== "kernels").map((run) => `${engineOf(run)}\n${run.threads}`),
    ),
  ];
  return table(
    [
      "engine",
      "threads",
      "decode dense, tok/s",
      "decode sparse",
      "speed-up",
      ...PROMPTS.map((tokens) => `prefill ${tokens}`),
      "load, ms",
    ],
    keys.map((key) => {
      const own = runs.filter((run) => `${engineOf(run)}\n${run.threads}` === key);
      const rows = (what: Run["what"]): readonly Row[] =>
        own.filter((run) => run.what === what).flatMap(({ rows }) => rows);
      const decode = rows("decode"), dense = decode.find(({ sparsity }) => sparsity === 0);
      const sparse = decode.find(({ sparsity }) => sparsity > 0);
      const stat = (row: Row | undefined): string =>
        row === undefined ? "" : spread(row.tokensPerSecond ?? row.ms!);
      const [engine, threads] = key.split("\n") as [string, string];
      const measured = sparse?.measuredSparsity == null
        ? ""
        : `, ${(100 * sparse.measuredSparsity).toFixed(0)} % skipped`;
      return [
        engine,
        threads,
        stat(dense),
        sparse === undefined ? "" : stat(sparse) + measured,
        times(sparse?.speedup),
        ...PROMPTS.map((tokens) => stat(prefillOf(own, tokens))),
        stat(rows("load")[0]),
      ];
    }),
  );
}

const projections = (runs: readonly Run[]): { readonly run: Run; readonly row: Row }[] =>
  runs.filter(({ what }) => what === "kernels").flatMap((run) =>
    run.rows.filter(({ name }) => name === "projections").map((row) => ({ run, row }))
  );

function speedupTable(runs: readonly Run[]): string {
  const rows: string[][] = [];
  for (const shape of SHAPE_NAMES) {
    for (const dtype of DTYPES) {
      for (const { run, row } of projections(runs)) {
        if (row.shape !== shape || row.dtype !== dtype || row.sparsity !== 0) continue;
        const at = (sparsity: number): Row | undefined =>
          run.rows.find((other) => other.name === "projections" && other.sparsity === sparsity);
        rows.push([
          shape,
          dtype,
          engineOf(run),
          spread(row.ms!),
          ...SPARSITIES.slice(1).map((sparsity) => times(at(sparsity)?.speedup)),
          methodsOf(run, 0.5),
          row.layersHeld === undefined ? "all" : `${row.layersHeld} of ${row.layers}`,
        ]);
      }
    }
  }
  return table(
    [
      "shape",
      "dtype",
      "engine",
      "dense, ms a token",
      ...SPARSITIES.slice(1).map((share) => `${100 * share} %`),
      "ways at 50 %",
      "blocks held",
    ],
    rows,
  );
}

/** How the matrices of a sparse token run: `skip 3, dense 1`. */
function methodsOf({ rows }: Run, sparsity: number): string {
  const found = rows.filter((row) => row.sparsity === sparsity && row.method !== undefined).map((
    { method },
  ) => method!);
  return [...new Set(found)].map((method) => `${method} ${found.filter((other) => other === method).length}`)
    .join(", ");
}

/** How often sparse won and lost. */
function balance(runs: readonly Run[]): string {
  const all = projections(runs).map(({ row }) => row).filter(({ speedup }) => speedup !== undefined);
  if (all.length === 0) return "";
  const lines = SPARSITIES.slice(1).map((sparsity) => {
    const some = all.filter((row) => row.sparsity === sparsity).map(({ speedup }) => speedup!);
    const lost = some.filter((speedup) => speedup < NOISE).length,
      won = some.filter((speedup) => speedup > 1 / NOISE).length;
    return `${100 * sparsity} %: ${won} of ${some.length} faster than dense, ${lost} slower, ${
      some.length - won - lost
    } alike`;
  });
  return `${lines.join("; ")} (within 3 % is alike). Losses are in bold.`;
}

function roofTable(runs: readonly Run[]): string {
  const rows = roofPoints(runs).filter(({ row }) => row.sparsity === 0 || row.sparsity === 0.5).map(
    (point) => {
      const { run, row, gmacs, gbPerSecond } = point, read = readSpeeds([run])?.[0] ?? null;
      return [
        row.shape,
        row.dtype,
        engineOf(run),
        row.sparsity === 0 ? "dense" : "50 %",
        read === null ? "" : number(read),
        number(gbPerSecond),
        read === null ? "" : `${(100 * gbPerSecond / read).toFixed(0)} %`,
        number(gmacs),
        number(row.gflops!.median / 2),
      ];
    },
  );
  if (rows.length === 0) return "";
  return `${
    table([
      "shape",
      "dtype",
      "engine",
      "",
      "read in order, GB/s",
      "kernels read, GB/s",
      "share",
      "GMAC/s done",
      "with those skipped",
    ], rows)
  }

*Read in order* is a loop of 16-byte loads over the model's memory in the same process. A share above 100 % is memory that changed its speed between the two, or weights that stayed in a cache.`;
}

function peerTable({ runs, peers }: Results): string {
  const there = peers.filter(({ reason }) => reason === null),
    gone = peers.filter(({ reason }) => reason !== null);
  if (peers.length === 0) return "";
  const names = [...PROMPTS.map((tokens) => `pp${tokens}`), "tg64"];
  const rows = there.map(({ name, version, engine, threads, rows }) => [
    `${name} ${version}`,
    engine,
    String(threads),
    ...names.map((wanted) => {
      const found = rows.find((row) => row.name === wanted);
      return found === undefined ? "" : spread(found.tokensPerSecond);
    }),
  ]);
  const own = runs.filter(({ what, rows }) =>
    what === "decode" && rows.some(({ sparsity }) => sparsity === 0)
  ).map((run) => {
    const alike = runs.filter((other) => engineOf(other) === engineOf(run) && other.threads === run.threads);
    const dense = run.rows.find(({ sparsity }) => sparsity === 0)!;
    return [
      "rsparse, dense",
      engineOf(run),
      String(run.threads),
      ...PROMPTS.map((tokens) => {
        const found = prefillOf(alike, tokens);
        return found === undefined ? "" : spread(found.tokensPerSecond!);
      }),
      spread(dense.tokensPerSecond!),
    ];
  });
  return [
    table(["program", "engine", "threads", "prompt of 128, tok/s", "of 512", "decode"], [...rows, ...own]),
    gone.map(({ name, version, threads, reason }) =>
      `- ${name} ${version}, ${threads} threads: no numbers: ${reason}`
    ).join("\n"),
  ].filter((part) => part !== "").join("\n\n");
}

function matrixTable(runs: readonly Run[]): string {
  return table(
    ["shape", "dtype", "engine", "matrix", "in x out", "sparsity", "way", "ms", "speed-up", "GB/s"],
    runs.filter(({ what }) => what === "kernels").flatMap((run) =>
      run.rows.filter(({ name }) => name !== "projections").map((row) => [
        row.shape,
        row.dtype,
        engineOf(run),
        row.name,
        row.nOut === undefined ? String(row.nIn ?? "") : `${row.nIn} x ${row.nOut}`,
        String(row.sparsity),
        row.method ?? row.variant,
        spread(row.ms!),
        times(row.speedup),
        row.gbPerSecond === undefined ? "" : number(row.gbPerSecond.median),
      ])
    ),
  );
}

function microTable({ micro }: Results): string {
  if (micro.length === 0) return "";
  const cases = new Map<string, MicroCase>();
  for (const { cases: some } of micro) for (const one of some) cases.set(one.name, one);
  const text = micro.map((run) => `${engineOf(run)} by ${run.harness}`).join(", ");
  return `Data in a cache, 1 thread, µs a call (GMAC/s, or GB/s read and written): ${text}.\n\n${
    table(
      ["group", "kernel", ...micro.map(engineOf)],
      [...cases.values()].map(({ group, name }) => [
        group,
        name,
        ...micro.map(({ cases }) => {
          const found = cases.find((one) => one.name === name);
          if (found === undefined) return "";
          const rate = found.gmacs ?? found.gbPerSecond;
          return number(found.ms.median * 1000) + (rate === undefined ? "" : ` (${number(rate)})`);
        }),
      ]),
    )
  }`;
}

function missingList({ missing, runs }: Results): string {
  const threads = runs.filter(({ threadsReason }) => threadsReason !== null).map((run) =>
    `- ${engineOf(run)}, ${run.what}: ${run.threads} threads only: ${run.threadsReason}`
  );
  const lines = new Map<string, string[]>();
  for (const { suite, engine, what, reason } of missing) {
    const rest = `${engine ?? "all engines"}, ${what}: ${reason}`;
    lines.set(rest, [...lines.get(rest) ?? [], suite]);
  }
  return [
    ...[...lines].map(([rest, suites]) => `- ${suites.join(", ")}, ${rest}`),
    ...threads,
  ].join("\n");
}
