/**
 * Every kernel alone, on data that lies in a cache: what code does where memory does not decide. Kernels that do the same, or follow one another, are a
 * group. `tests/unit/micro_test.ts` holds the names against what the builds export.
 */
import { Arena } from "../../src/kernels/arena.ts";
import {
  attentionScratchBytes,
  groupBlockBytes,
  kvTile,
  LIST_SPAN,
  PAGE_POSITIONS,
  QUAD_RECORD,
  quadBlockBytes,
} from "../../src/kernels/kernels.ts";
import { Random } from "../../src/runtime/random.ts";

/** One kernel with its arguments. */
export interface Case {
  readonly group: string;
  /** The kernel, and what tells this case from others of it. */
  readonly name: string;
  readonly kernel: string;
  readonly run: () => void;
  /** Multiply-adds a call, those of channels that are left out not counted. */
  readonly macs?: number;
  /** Bytes a call reads and writes. */
  readonly bytes?: number;
}

/** What a build exports. */
export type Exports = { readonly [name: string]: (...args: number[]) => number };

/** A matrix that a second cache holds in every dtype: 512 KB in f32. */
const IN = 512, OUT = 256;
/** Tokens of a prompt. */
const TOKENS = 32;
/** Numbers of a vector. */
const N = 4096;
/** Heads that share a key head, their size, and positions that they attend to. */
const GROUP = 3, HEAD = 64, POSITIONS = 512;
/** Size of a symmetric matrix. */
const GRAM = 64;
/** What the int4 stream touches ahead of its block lies in the memory too. */
const AHEAD = 1 << 16;
const MEMORY_PAGES = 256;
/** Leaves half of numbers that are even between -1 and 1. */
const HALF = 0.5;

/** A memory with room for all cases. */
export function microMemory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: MEMORY_PAGES });
}

/** Cases of all kernels that `exports` has, on its memory. */
export function microCases(exports: Exports, memory: WebAssembly.Memory): Case[] {
  const setup = new Setup(exports, memory);
  return [
    ...vectorCases(setup),
    ...selectionCases(setup),
    ...attentionCases(setup),
    ...floatCases(setup),
    ...int8Cases(setup),
    ...int4Cases(setup),
    ...prefillCases(setup),
    ...loadingCases(setup),
    ...svdCases(setup),
    ...teamCases(setup),
  ].filter(({ kernel }) => kernel in exports);
}

/** Buffers and calls. */
class Setup {
  readonly exports: Exports;
  readonly memory: WebAssembly.Memory;
  readonly #arena: Arena;
  readonly #random = new Random(3);
  /** f32[N] between -1 and 1; ones; zeros that kernels write to. */
  readonly x: number;
  readonly ones: number;
  readonly y: number;

  constructor(exports: Exports, memory: WebAssembly.Memory) {
    this.exports = exports;
    this.memory = memory;
    this.#arena = new Arena(memory, exports["heap_base"]!());
    // as integers any bytes will do, as f16 this is 1.06, as f32 and bf16 0.0115: none is subnormal
    new Uint8Array(memory.buffer, exports["heap_base"]!()).fill(0x3c);
    this.x = this.floats(TOKENS * IN, () => 2 * this.#random.uniform() - 1);
    this.ones = this.floats(N, () => 1);
    this.y = this.floats(N, () => 0);
  }

  /** Bytes, all 0x3c. */
  room(bytes: number): number {
    const at = this.#arena.allocate(bytes + AHEAD);
    if (this.memory.buffer.byteLength > MEMORY_PAGES * 65536) {
      throw new Error("the memory of micro-benchmarks is too small");
    }
    return at;
  }

  floats(n: number, value: (i: number) => number): number {
    const at = this.room(4 * n);
    new Float32Array(this.memory.buffer, at, n).set(Float32Array.from({ length: n }, (_, i) => value(i)));
    return at;
  }

  doubles(n: number, value: () => number = () => this.#random.uniform() - 0.5): number {
    const at = this.room(8 * n);
    new Float64Array(this.memory.buffer, at, n).set(Float64Array.from({ length: n }, value));
    return at;
  }

  integers(values: readonly number[]): number {
    const at = this.room(4 * values.length);
    new Uint32Array(this.memory.buffer, at, values.length).set(values);
    return at;
  }

  /** Half of `n` channels, at random. */
  halfOf(n: number): number[] {
    const all = Array.from({ length: n }, (_, i) => ({ i, key: this.#random.uniform() }));
    return all.sort((a, b) => a.key - b.key).slice(0, n / 2).map(({ i }) => i).sort((a, b) => a - b);
  }

  call(kernel: string, ...args: number[]): number {
    return this.exports[kernel]?.(...args) ?? 0;
  }

  /** Cases of a group: the kernel, what tells it apart, its arguments, multiply-adds and bytes. */
  cases(
    group: string,
    list: readonly (readonly [
      kernel: string,
      what: string,
      args: readonly number[],
      rate?: Pick<Case, "macs" | "bytes">,
    ])[],
  ): Case[] {
    return list.map(([kernel, what, args, rate]) => {
      const run = this.exports[kernel], name = what === "" ? kernel : `${kernel}, ${what}`;
      return { group, name, kernel, run: () => void run!(...args), ...rate };
    });
  }
}

function vectorCases(s: Setup): Case[] {
  const { x, y, ones } = s,
    other = s.floats(N, () => 0.5),
    pairs = HEAD / 2,
    angles = s.room(8 * pairs),
    base = s.room(8 * pairs);
  s.call("rope_frequencies_f64", base, pairs, 10000);
  s.call("rope_angles_f64", angles, base, pairs, 100);
  return s.cases("vectors", [
    ["heap_base", "what a call costs", []],
    ["fill_zero_f32", `${N}`, [y, N], { bytes: 4 * N }],
    ["add_f32", `${N}`, [y, x, N], { bytes: 12 * N }],
    ["add_i32", `${N}`, [y, x, N], { bytes: 12 * N }],
    ["scale_rows_f32", `${N}`, [y, ones, N], { bytes: 12 * N }],
    ["sum_i16", `${2 * N}`, [x, 2 * N], { bytes: 4 * N }],
    ["rms_norm_f32", `${N}`, [y, x, ones, N, 1e-5], { bytes: 12 * N }],
    ["silu_mul_f32", `${N}`, [y, x, other, N], { bytes: 12 * N }],
    ["rope_frequencies_f64", `${pairs} pairs`, [base, pairs, 10000]],
    ["rope_angles_f64", `${pairs} pairs`, [angles, base, pairs, 100]],
    ["rope_f32", `9 heads of ${HEAD}`, [other, angles, 9, HEAD, pairs, 0]],
  ]);
}

function selectionCases(s: Setup): Case[] {
  const { x, ones } = s, index = s.room(4 * N + 64), value = s.room(4 * N + 64), rest = s.room(4 * N);
  const table = s.room(N), list = s.room(2 * LIST_SPAN), mask = s.room(N / 8);
  const half = s.integers(s.halfOf(N)), n = N / 2;
  return s.cases("selection", [
    ["select_channels_f32", `half of ${N}`, [index, value, x, ones, HALF, N]],
    ["mask_channels_f32", `half of ${N}`, [value, rest, x, ones, HALF, N]],
    ["force_channels_f32", `half of ${N}`, [value, rest, x, mask, N]],
    ["gather_f32", `half of ${N}`, [value, x, half, n], { bytes: 12 * n }],
    ["select_group_i4", `half of ${N}`, [table, list, x, ones, HALF, N]],
    ["quantize_i16", `${N}`, [value, x, ones, N, N], { bytes: 10 * N }],
    ["quantize_quad_i4", `${N}`, [rest, x, N], { bytes: 4 * N + N / 64 * QUAD_RECORD }],
  ]);
}

function attentionCases(s: Setup): Case[] {
  const tile = kvTile(HEAD).length,
    nPages = POSITIONS / PAGE_POSITIONS,
    width = GROUP * HEAD,
    list: Case[] = [];
  const out = s.room(4 * TOKENS * width), q = s.floats(TOKENS * width, (i) => Math.sin(i));
  const scratch = s.room(attentionScratchBytes(TOKENS, GROUP, HEAD));
  for (const [dtype, bytes] of [["f32", 4], ["bf16", 2]] as const) {
    const pages = s.integers(Array.from({ length: nPages }, () => s.room(tile * bytes)));
    const args = (
      first: number,
      n: number,
    ): number[] => [out, q, pages, 0, scratch, first, n, width, width, GROUP, HEAD];
    const products = (n: number): number => 2 * width * n * (POSITIONS - (n - 1) / 2);
    list.push(...s.cases(`attention ${dtype}`, [
      [`attention_${dtype}`, `a token over ${POSITIONS}`, args(POSITIONS - 1, 1), {
        macs: products(1),
        bytes: POSITIONS / PAGE_POSITIONS * tile * bytes,
      }],
      [`attention_${dtype}`, `${TOKENS} tokens over ${POSITIONS}`, args(POSITIONS - TOKENS, TOKENS), {
        macs: products(TOKENS),
      }],
      [`store_kv_${dtype}`, `${TOKENS} positions`, [pages, 0, q, q, TOKENS, width, 0, 1, HEAD], {
        bytes: 2 * TOKENS * HEAD * (4 + bytes),
      }],
    ]));
  }
  return list;
}

function floatCases(s: Setup): Case[] {
  const { x, y, ones } = s,
    w = s.room(4 * IN * OUT),
    all = IN * OUT,
    index = s.room(4 * IN + 64),
    value = s.room(4 * IN + 64);
  const active = s.call("select_channels_f32", index, value, x, ones, HALF, IN),
    every = s.room(4 * IN + 64),
    values = s.room(4 * IN + 64);
  s.call("select_channels_f32", every, values, x, ones, -1, IN);
  const scratch = s.room(4 * IN), list: Case[] = [];
  for (const [dtype, bytes] of [["f32", 4], ["bf16", 2]] as const) {
    const whole = { macs: all, bytes: bytes * all },
      part = { macs: active * OUT, bytes: bytes * active * OUT };
    list.push(...s.cases(`decode ${dtype}`, [
      [`gemv_all_channels_${dtype}`, "dense", [y, w, x, IN, OUT], whole],
      [`gemv_channels_${dtype}`, "100 %", [y, w, every, values, IN, OUT, OUT], whole],
      [`gemv_channels_${dtype}`, "50 %", [y, w, index, value, active, OUT, OUT], part],
      [
        `gemv_rows_${dtype}`,
        "dense",
        dtype === "f32" ? [y, w, x, IN, OUT] : [y, w, x, IN, OUT, scratch],
        whole,
      ],
    ]));
  }
  return list;
}

function int8Cases(s: Setup): Case[] {
  const { x, y, ones } = s, w = s.room(IN * OUT), xq = s.room(2 * IN), half = s.halfOf(IN);
  const index = s.integers(half),
    every = s.integers(Array.from({ length: IN }, (_, i) => i)),
    acc = s.room(4 * OUT);
  s.call("quantize_i16", xq, x, ones, IN, IN);
  const sum = s.call("sum_i16", xq, IN),
    whole = { macs: IN * OUT, bytes: IN * OUT },
    part = { macs: IN * OUT / 2, bytes: IN * OUT / 2 };
  return s.cases("decode int8", [
    ["gemv_pairs_i8", "dense", [y, w, xq, ones, 0.01, sum, IN, OUT], whole],
    ["gemv_channels_i8", "100 %", [acc, w, every, xq, IN, OUT, OUT], whole],
    ["gemv_channels_i8", "50 %", [acc, w, index, xq, half.length, OUT, OUT], part],
    ["gemv_channels_i8_six", "100 %", [acc, w, every, xq, IN, OUT, OUT], whole],
    ["gemv_channels_i8_six", "50 %", [acc, w, index, xq, half.length, OUT, OUT], part],
    ["finish_channels_i8", `${OUT} outputs`, [y, acc, ones, 0.01, sum, OUT]],
  ]);
}

function int4Cases(s: Setup): Case[] {
  const { x, y, ones } = s,
    blocks = OUT / 64,
    pairBytes = groupBlockBytes(true) * blocks,
    bytes = pairBytes * IN / 64;
  const w = s.room(bytes),
    scratch = s.room(256),
    quads = s.room(OUT / 16 * IN / 64 * quadBlockBytes(true)),
    records = s.room(IN / 64 * QUAD_RECORD);
  const tables = [-1, HALF].map((threshold) => {
    const table = s.room(IN), list = s.room(2 * LIST_SPAN);
    return { table, active: s.call("select_group_i4", table, list, x, ones, threshold, IN) };
  });
  const [dense, half] = tables as [(typeof tables)[0], (typeof tables)[0]];
  s.call("quantize_quad_i4", records, x, IN);
  const args = (table: number): number[] => [y, w, table, IN, blocks, pairBytes, 1, scratch];
  const whole = { macs: IN * OUT, bytes }, part = { macs: half.active * OUT, bytes };
  return s.cases("decode int4", [
    ["gemv_group_i4", "dense", args(dense.table), whole],
    ["gemv_group_i4_list", "100 %", args(dense.table), whole],
    ["gemv_group_i4_list", "50 %", args(half.table), part],
    ["gemv_group_i4_list_plain", "50 %", args(half.table), part],
    ["gemv_quad_i4", "dense", [y, quads, ones, records, IN, OUT, 1], {
      macs: IN * OUT,
      bytes: OUT / 16 * IN / 64 * quadBlockBytes(true),
    }],
  ]);
}

function prefillCases(s: Setup): Case[] {
  const { x, ones } = s,
    a = s.room(4 * TOKENS * IN),
    w = s.room(4 * IN * OUT),
    panel = s.room(64 * IN * 4),
    stride = OUT;
  const y = s.floats(TOKENS * stride, () => 0),
    scale = s.room(4 * TOKENS * IN / 32),
    sum = s.room(4 * TOKENS * IN / 32);
  const d = s.room(4 * 64 * IN / 32),
    m = s.room(4 * 64 * IN / 32),
    packed = s.room(2 * TOKENS * IN),
    rowScale = ones;
  s.call("pack_tokens_f32", a, x, TOKENS, IN, IN);
  s.call("pack_tokens_i16", packed, scale, sum, x, ones, TOKENS, IN, IN);
  const macs = TOKENS * IN * 8,
    read = (bytes: number, outputs: number, to: number): Pick<Case, "bytes"> => ({
      bytes: (bytes + to) * outputs * IN,
    });
  return [
    ...s.cases("prompt, floats", [
      ["pack_tokens_f32", `${TOKENS} tokens`, [a, x, TOKENS, IN, IN], { bytes: 8 * TOKENS * IN }],
      ["unpack_channels_f32", "8 outputs", [panel, w, 8, IN, OUT], read(4, 8, 4)],
      ["unpack_channels_bf16", "8 outputs", [panel, w, 8, IN, OUT], read(2, 8, 4)],
      ["unpack_rows_f32", "8 outputs", [panel, w, 8, IN, OUT], read(4, 8, 4)],
      ["unpack_rows_bf16", "8 outputs", [panel, w, 8, IN, OUT], read(2, 8, 4)],
      ["unpack_pairs_f32", "8 outputs", [panel, w, rowScale, ones, 8, IN, IN], read(1, 8, 4)],
      ["gemm_f32", `${TOKENS} tokens, 8 outputs`, [y, a, panel, TOKENS, stride, IN], { macs }],
    ]),
    ...s.cases("prompt, integers", [
      ["pack_tokens_i16", `${TOKENS} tokens`, [packed, scale, sum, x, ones, TOKENS, IN, IN], {
        bytes: 6 * TOKENS * IN,
      }],
      ["unpack_group_i4", "64 outputs", [panel, d, m, w, rowScale, 1, 64, IN, OUT], read(0.625, 64, 1)],
      ["unpack_channels_i8", "32 outputs", [panel, d, m, w, rowScale, 32, IN, OUT], read(1, 32, 1)],
      ["unpack_pairs_i8", "16 outputs", [panel, d, m, w, rowScale, 16, IN], read(1, 16, 1)],
      ["gemm_i16", `${TOKENS} tokens, 8 outputs`, [y, packed, scale, sum, panel, d, m, TOKENS, stride, IN], {
        macs,
      }],
    ]),
    ...s.cases("prompt, bytes", [
      ["pack_tokens_quad_i4", `${TOKENS} tokens`, [a, x, TOKENS, IN, IN], { bytes: 5.25 * TOKENS * IN }],
      ["rest_quad_i4", "1 token", [a, x, IN], { bytes: 8 * IN }],
      ["unpack_quad_i4", "16 outputs", [panel, w, rowScale, 1, 16, IN], read(0.625, 16, 1.125)],
      ["unpack_group_quad_i4", "64 outputs", [panel, w, rowScale, 1, 64, IN, OUT], read(0.625, 64, 1.125)],
      ["gemm_quad_i4", `${TOKENS} tokens, 8 outputs`, [y, a, panel, TOKENS, stride, IN, 8, 0], { macs }],
    ]),
  ];
}

/** Once a model: what it costs to bring weights into their layouts. */
function loadingCases(s: Setup): Case[] {
  const { x } = s,
    rows = 64,
    values = rows * IN,
    w = s.room(4 * values),
    src = s.floats(values, (i) => Math.sin(i)),
    blocks = s.room(4 * values);
  const rowScale = s.floats(rows, () => 1),
    channelScale = s.floats(IN, () => 1),
    rates = (bytes: number): Pick<Case, "bytes"> => ({ bytes: bytes * values });
  const dequantize = ([type, size, bytes]: readonly [string, number, number]) =>
    [`dequantize_${type}`, `${values} values`, [w, blocks, values / size], rates(4 + bytes / size)] as const;
  return [
    ...s.cases("loading: from the file", [
      ["find_non_finite_f32", `${values} values`, [src, values], rates(4)],
      ...([
        ["f16", 1, 2],
        ["bf16", 1, 2],
        ["q8_0", 32, 34],
        ["q4_0", 32, 18],
        ["q4_1", 32, 20],
        ["q5_0", 32, 22],
        ["q5_1", 32, 24],
        ["q4_k", 256, 144],
        ["q5_k", 256, 176],
        ["q6_k", 256, 210],
      ] as const).map(dequantize),
    ]),
    ...s.cases("loading: into layouts", [
      ["pack_channels_f32", `${rows} rows`, [w, src, 0, rows, IN, rows], rates(8)],
      ["pack_channels_bf16", `${rows} rows`, [w, src, 0, rows, IN, rows], rates(6)],
      ["pack_bf16", `${values} values`, [w, src, values], rates(6)],
      ["balance_scales_i8", `${rows} rows`, [rowScale, channelScale, src, rows, IN], rates(16)],
      ["pack_channels_i8", `${rows} rows`, [w, src, rowScale, channelScale, rows, IN, rows], rates(5)],
      ["pack_pairs_i8", `${rows} rows`, [w, rowScale, src, 0, rows, IN, IN], rates(5)],
      ["pairs_of_channels_i8", `${rows} rows`, [w, src, IN, rows, rows], rates(2)],
      ["pack_group_i4", `${rows} rows`, [w, rowScale, blocks, 1, 0, rows, IN / 32, IN, rows], rates(1.25)],
      ["pack_quad_i4", `${rows} rows`, [w, rowScale, blocks, 1, 0, rows, IN / 32, IN], rates(1.25)],
      ["read_row_pairs_i8", "a row", [x, w, rowScale, 0, IN, IN], { bytes: 5 * IN }],
      ["read_row_bf16", "a row", [x, w, IN], { bytes: 6 * IN }],
    ]),
  ];
}

function svdCases(s: Setup): Case[] {
  const n = GRAM, nBlocks = n / 4, size = n * n, kernel = "tridiagonalise_f64";
  const panel = s.doubles(size),
    z = s.doubles(size),
    g = s.doubles(size, () => 0),
    vector = s.doubles(n),
    work = s.room(16 * n);
  const fresh = s.doubles(size),
    a = s.room(8 * size),
    d = s.room(8 * n),
    e = s.room(8 * n),
    h = s.room(8 * n);
  const restore = (): void => void new Uint8Array(s.memory.buffer).copyWithin(a, fresh, fresh + 8 * size);
  const args = [d, e, h, a, work, n, n, 1e-300];
  restore();
  s.call(kernel, ...args);
  const reflectors = s.room(8 * size), lengths = s.room(8 * n), bytes = new Uint8Array(s.memory.buffer);
  bytes.copyWithin(reflectors, a, a + 8 * size);
  bytes.copyWithin(lengths, h, h + 8 * n);
  return [
    ...s.cases("calibration", [
      ["gram_panel_f64", `${n} x ${n}`, [g, panel, nBlocks, n], { macs: size * n / 2 }],
      ["project_panel_f64", `${n} x ${n}`, [vector, panel, z, work, nBlocks, n], { macs: size }],
      ["orthogonalise_f64", `${n} of ${n}`, [vector, s.room(8 * size), n, n, n], { macs: 2 * size }],
      ["back_transform_f64", `${n} of ${n}`, [z, reflectors, lengths, n, n, n]],
    ]),
    {
      group: "calibration",
      name: `${kernel}, ${n} x ${n}`,
      kernel,
      run: () => {
        restore();
        s.call(kernel, ...args);
      },
    },
  ];
}

/** What threads add to a step: one thread, a step without work. */
function teamCases(s: Setup): Case[] {
  const control = s.room(4096), job = s.integers([4, 0]), scratch = s.room(256);
  new Uint8Array(s.memory.buffer, control, 4096).fill(0);
  return s.cases("threads", [
    ["team_run", "a step of nothing", [control, 1, job, 1, scratch, 0]],
    ["team_help", "no step", [control, 0, 1, job, scratch, 1]],
    ["team_wait", "nothing to wait for", [control, 1, 1]],
    ["team_spin", "100 reads", [control + 128, 0, 100]],
  ]);
}
