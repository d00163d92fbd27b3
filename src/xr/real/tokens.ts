/** A language model as a job: some decoded tokens a frame, at a sparsity that is chosen when the frame begins. */
import { Model } from "../../runtime/model.ts";
import { ReplyRunner } from "../lm.ts";
import { Sampler } from "../../runtime/sampler.ts";
import type { Runner, Work } from "./jobs.ts";

/** What the model goes on from, again and again. */
const PROMPT = "Once upon a time, in a house by the sea,";
/** Positions of a session: enough for a few replies, and no more cache than that. */
const CONTEXT = 512;

/** Loads a model whose frames are decoded tokens, one thread, always the likeliest token. */
export async function openTokens(work: Extract<Work, { kind: "real" }>): Promise<Runner> {
  const { dtype, recipe, sparsity, tokens } = work;
  const model = await Model.load(work.model, {
    threads: 1,
    dtype,
    ...(recipe !== null && { recipe }),
  });
  const prompt = model.tokenize(PROMPT), most = model.description.config.maxPositionEmbeddings;
  const limit = Math.min(CONTEXT, most), sampler = new Sampler({ temperature: 0 });
  if (prompt.length + tokens > limit) {
    throw new RangeError(
      `tokens: ${tokens} a frame found, at most ${
        limit - prompt.length
      } fit beside the prompt of ${prompt.length}`,
    );
  }
  const trial = model.session();
  // a level that the recipe has not ends the start, and not the run
  for (const level of work.sparsities) trial.sparsity = level;
  trial.close();
  if (work.prompt !== null) return openReplies(model, work.prompt, sparsity);
  const session = model.session(sparsity === null ? {} : { sparsity });
  const own = session.sparsity;
  let logits = session.prefill(prompt);
  const afterPrompt = logits;
  return {
    info: { model: model.info.runtime, kernels: model.info.kernels, sparsity: own, tokens },
    run(chosen) {
      session.sparsity = Number.isNaN(chosen) ? own : chosen;
      if (session.length + tokens > limit) {
        session.truncate(prompt.length);
        logits = afterPrompt;
      }
      for (let i = 0; i < tokens; i++) logits = session.decode(sampler.sample(logits, []));
    },
  };
}

/** Replies: token 0 is the prompt, run dense; each after it goes on from the last. */
function openReplies(model: Model, tokens: number, sparsity: number | null): Runner {
  const text = model.tokenize(PROMPT),
    prompt = Array.from({ length: tokens }, (_, i) => text[i % text.length]!);
  const session = model.session(), own = sparsity ?? session.sparsity;
  session.close();
  const runner = new ReplyRunner(model, [prompt]);
  return {
    info: { kernels: model.info.kernels, sparsity: own, prompt: tokens },
    run(chosen, token) {
      // a token by itself, to be measured, is the first after a prompt that was run before
      if (token === 0 || !runner.hasBegun) runner.begin(0);
      if (token !== 0) runner.next(Number.isNaN(chosen) ? own : chosen);
    },
  };
}
