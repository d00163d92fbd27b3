/**
 * XRBench, a real-time workload of several models: the published harness to the bit, and with its defects repaired. Apart from the core:
 * `import { simulate } from "rsparse/xr"`.
 *
 * @module
 */
export {
  builtinHardware,
  builtinLevels,
  type BuiltinModel,
  builtinModels,
  builtinScenario,
  builtinScenarios,
  extensionScenarios,
} from "./builtin.ts";
export {
  assumedFidelity,
  createPolicy,
  DEFAULT_FEEDBACK,
  type FeedbackRule,
  type FeedbackState,
  feedbackStep,
  type Interim,
  LatencyTable,
  layerLevel,
  type Level,
  logGain,
  logRealTime,
  type Outlook,
  perplexityFidelity,
  planLevel,
  POLICIES,
  type Policy as DialPolicy,
  type PolicyOptions,
  type Profile,
  queueLevel,
  type ReplayedToken,
  replayTokens,
  type Situation,
  slackLevel,
  TokenRun,
  type Waiting,
  type WantedToken,
  wholeToken,
} from "../deadline/mod.ts";
export { type Dial, dialExecutor } from "./dial.ts";
export {
  compareDial,
  type DialComparison,
  type Estimate,
  estimate,
  meanOf,
  type Measure,
  type Mixture,
} from "./dial_compare.ts";
export {
  DIAL_LOADS,
  type DialCell,
  type DialLoad,
  type DialOutcome,
  dialScenario,
  type DialSweepOptions,
  drawCourse,
  nameOfLoad,
  runDial,
  sweepDial,
} from "./dial_sweep.ts";
export { FormatError, XrError, type XrErrorCode } from "../errors.ts";
export { type BatchEntry, csvOf, parseBatch, runEntry } from "./batch.ts";
export { type ComparedRow, compareResults, parseResults } from "./compare.ts";
export { scheduleCsv, sixDecimals, summaryCsv } from "./csv.ts";
export {
  type Executor,
  type Job,
  type JobCost,
  type ModelCost,
  type Policy,
  tableExecutor,
  type WaitingFrame,
} from "./executor.ts";
export {
  type Accelerator,
  costsOf,
  type Hardware,
  HARDWARE_SCHEMA,
  parseHardware,
  type Setting,
} from "./hardware.ts";
export { countLayers, type LayerCounts } from "./layers.ts";
export { drawFrames, type Frame, type LoadOptions } from "./load.ts";
export {
  type Course,
  dialOf,
  LEVELS_SCHEMA,
  type LevelsFile,
  type MeasuredLevel,
  parseLevels,
  profileOf,
} from "./levels.ts";
export {
  type ComparedToken,
  compareWithDense,
  type GeneratedToken,
  type LmModel,
  type LmSession,
  ReplyRunner,
} from "./lm.ts";
export { liveExecutor, type LiveModel, type LiveToken } from "./live.ts";
export type { LogEntry, Reason, Request } from "./log.ts";
export { type MScenario, readMScenario } from "./m_reader.ts";
export { type MeasuredText, measureTokens, partsOf, type TokenTimes } from "./measure.ts";
export { compareNames } from "./names.ts";
export type { Order } from "./queues.ts";
export { LibcRandom } from "./random.ts";
export {
  type BoundModel,
  type ClockGaps,
  percentilesOf,
  type RealAccelerator,
  type RealDetails,
  type RealJobRow,
  type RecordedRun,
  recordRun,
  scoreRecorded,
  type TimeSpread,
} from "./recorded.ts";
export {
  DEFAULT_REPLY,
  type Reply,
  type ReplyReport,
  reportReplies,
  type Spread,
  tokenDeadlineMs,
  tokenNumber,
} from "./reply.ts";
export {
  type DialReport,
  type LogRow,
  type ModelResult,
  type NamedDial,
  resultOf,
  type Run,
  runOn,
  type RunOptions,
  type RunResult,
  runScenario,
} from "./run.ts";
export {
  type Layer,
  parseScenario,
  type Scenario,
  SCENARIO_SCHEMA,
  type ScenarioModel,
  withProbability,
} from "./scenario.ts";
export {
  energyScore,
  type Lateness,
  type ModelScore,
  realTimeScore,
  scoreLog,
  type ScoreOptions,
  type Scores,
} from "./scores.ts";
export { simulate, type Simulation, type SimulationOptions } from "./simulate.ts";
export {
  type Mode,
  namesOn,
  readSwitches,
  SWITCH_NAMES,
  SWITCHES,
  type Switches,
  type SwitchName,
} from "./switches.ts";
export {
  type Cell,
  type Change,
  type FixEffect,
  fixEffects,
  suiteOf,
  sweep,
  type SweepOptions,
} from "./sweep.ts";
export { type JobRow, parseTrace, type Trace, TRACE_SCHEMA, type TraceFile, traceOf } from "./trace.ts";
