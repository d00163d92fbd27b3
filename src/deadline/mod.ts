/** Which sparsity meets a deadline: what the server and XRBench share. */
export { assumedFidelity, dialLevels, LatencyTable, type Level, perplexityFidelity } from "./levels.ts";
export {
  DEFAULT_FEEDBACK,
  DEFAULT_K,
  type FeedbackRule,
  type FeedbackState,
  feedbackStep,
  layerLevel,
  logGain,
  logRealTime,
  type Outlook,
  planLevel,
  queueLevel,
  slackLevel,
  type Waiting,
} from "./policies.ts";
export {
  createPolicy,
  type Interim,
  POLICIES,
  type Policy,
  type PolicyOptions,
  type Situation,
} from "./policy.ts";
export { type ReplayedToken, replayTokens, type WantedToken } from "./replay.ts";
export { type Profile, TokenRun, wholeToken } from "./token.ts";
