/** Whether threads help, found out by trying: a core that another job took, or memory that one thread fills, makes them a loss. */

/** Units of each way that the first decision is made on. */
const TRIALS = 3;
/** Units until the other way is tried again; doubled each time that nothing came of it. */
const FIRST_INTERVAL = 64, LAST_INTERVAL = 4096;
/** Units of the other way that such a try takes. */
const PROBES = 2;
/** The last so many units stand for a way. */
const RECENT = 5;
/** What the other way must be faster by, and how much slower than it was makes a way doubtful. */
const GAIN = 0.95, DOUBT = 1.3;

/**
 * Chooses for each unit of work, such as a token, whether to share it, by the times of those before: both ways in turn at first, then the faster,
 * with a look at the other one now and then, and soon when units take longer than they did.
 */
export class Pace {
  /** Times of the last units, alone and together, in ms per piece of work. */
  readonly #times: readonly [number[], number[]] = [[], []];
  /** What comes next, last first; empty: the faster way. */
  #plan: boolean[] = Array.from({ length: 2 * TRIALS + 1 }, (_, i) => i % 2 === 0);
  #together = true;
  #interval = FIRST_INTERVAL;
  #untilProbe = FIRST_INTERVAL;
  /** Time of the chosen way when it was chosen. */
  #usual = Infinity;
  /** Whether the first unit is over, which is not counted: kernels run unoptimised at first. */
  #warm = false;

  /** Whether the next unit is to be shared. */
  get together(): boolean {
    return this.#plan.at(-1) ?? this.#together;
  }

  /** Notes what a unit took that went as {@linkcode Pace.together} said, and how much work it was. */
  note(ms: number, work: number): void {
    const together = this.together, times = this.#times[together ? 1 : 0];
    const planned = this.#plan.pop() !== undefined;
    if (!this.#warm) {
      this.#warm = true;
      return;
    }
    times.push(ms / work);
    if (times.length > RECENT) times.shift();
    if (planned) {
      if (this.#plan.length === 0) this.#decide();
    } else if (--this.#untilProbe <= 0 || this.#isDoubtful(times)) this.#probe();
  }

  /** Tries the other way. What is known of it is old. */
  #probe(): void {
    this.#times[this.#together ? 0 : 1].length = 0;
    this.#plan = new Array(PROBES).fill(!this.#together);
  }

  #decide(): void {
    const [alone, together] = this.#times.map(median) as [number, number];
    const [now, other] = this.#together ? [together, alone] : [alone, together];
    if (other < now * GAIN) {
      this.#together = !this.#together;
      this.#interval = FIRST_INTERVAL;
    } else this.#interval = Math.min(2 * this.#interval, LAST_INTERVAL);
    this.#untilProbe = this.#interval;
    this.#usual = Math.min(now, other);
  }

  #isDoubtful(times: readonly number[]): boolean {
    return times.length === RECENT && median(times) > this.#usual * DOUBT;
  }
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? Infinity;
}
