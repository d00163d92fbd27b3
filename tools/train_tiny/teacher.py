"""What the teacher writes: conversations of SmolLM2, made by sampling thousands of them at once."""

import json
import math
import time

import numpy as np
import torch

import prompts
from llama import Llama, angles, gated, rms_norm, rotate

IM_END, IM_START = "<|im_end|>", "<|im_start|>"


class Sampler:
    """
    Continues thousands of sequences at once, a token of each at a time; prompts are read so as well, since they differ in length.

    A step is a CUDA graph where there is a GPU: launching its thousand kernels one by one takes ten times as long as they do.
    """

    def __init__(self, model: Llama, n: int, length: int, temperature: float, stop: int, min_p: float = 0.05):
        c, device = model.config, model.embedding.device
        self.model, self.n, self.length, self.temperature, self.stop, self.min_p = model, n, length, temperature, stop, min_p
        self.keys = torch.zeros(c.layers, n, c.kv_heads, length, c.head_dim, device=device, dtype=model.embedding.dtype)
        self.values = torch.zeros_like(self.keys)
        self.cos, self.sin = angles(c, length, device)
        self.places = torch.arange(length, device=device)
        self.t = torch.zeros(1, dtype=torch.long, device=device)
        self.tokens = torch.zeros(n, length + 1, dtype=torch.long, device=device)
        self.lengths, self.ends = torch.zeros(n, dtype=torch.long, device=device), torch.zeros(n, dtype=torch.long, device=device)
        self.over = torch.zeros(n, dtype=torch.bool, device=device)
        self.graph = None

    def step(self) -> None:
        m, c, n, t = self.model, self.model.config, self.n, self.t
        kv, d, dtype = c.kv_heads, c.head_dim, self.model.embedding.dtype
        cos, sin, seen = self.cos[t], self.sin[t], (self.places <= t).view(1, 1, 1, -1)
        h = m.embedding[self.tokens.gather(1, t.expand(n, 1))[:, 0]].float()[:, None]
        for i, w in enumerate(m.weights):
            x = rms_norm(h, m.attention_norm[i], c.eps).to(dtype)
            q, k, v = (x @ w["qkv"].T).split([c.heads * d, kv * d, kv * d], -1)
            # query heads of one key head stand as rows, so that nothing is repeated
            q = rotate(q.view(n, 1, c.heads, d), cos, sin, c.interleaved).view(n, kv, c.heads // kv, d)
            k = rotate(k.view(n, 1, kv, d), cos, sin, c.interleaved)
            self.keys[i].index_copy_(2, t, k.transpose(1, 2))
            self.values[i].index_copy_(2, t, v.view(n, kv, 1, d))
            # reading the cache takes 13 ms a step for 6,144 stories, fused attention with three rows a head took 62
            scores = (q @ self.keys[i].mT).float() / math.sqrt(d)
            a = scores.masked_fill(~seen, -math.inf).softmax(-1).to(dtype) @ self.values[i]
            h = h + (a.reshape(n, 1, -1) @ w["o"].T).float()
            x = rms_norm(h, m.mlp_norm[i], c.eps).to(dtype)
            h = h + (gated(x @ w["gate_up"].T) @ w["down"].T).float()
        z = (rms_norm(h[:, 0], m.final_norm, c.eps).to(dtype) @ m.head.T).float() / self.temperature
        z = z.masked_fill(z < z.amax(-1, keepdim=True) + math.log(self.min_p), -math.inf)
        chosen = (z - torch.empty_like(z).exponential_().log_()).argmax(-1)
        free = (t + 1 >= self.lengths) & ~self.over
        old = self.tokens.gather(1, (t + 1).expand(n, 1))[:, 0]
        self.tokens.scatter_(1, (t + 1).expand(n, 1), torch.where(free, chosen, old)[:, None])
        ended = free & (chosen == self.stop)
        self.ends.copy_(torch.where(ended, t + 2, self.ends))
        self.over.logical_or_(ended)
        self.t.add_(1)

    @torch.no_grad()
    def run(self, given: list[list[int]]) -> list[tuple[list[int], bool]]:
        """What was added to each, and whether it came to `stop`."""
        tokens = torch.zeros(self.n, self.length + 1, dtype=torch.long)
        for i, g in enumerate(given):
            tokens[i, : len(g)] = torch.tensor(g)
        lengths = torch.tensor([len(g) for g in given] + [1] * (self.n - len(given)))

        def begin() -> None:
            self.tokens.copy_(tokens)
            self.lengths.copy_(lengths)
            self.ends.fill_(self.length)
            # what is not asked for is over before it begins
            self.over.copy_(torch.arange(self.n) >= len(given))
            self.t.zero_()

        begin()
        if self.graph is None and self.tokens.is_cuda:
            for _ in range(2):
                self.step()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.step()
            begin()
        for t in range(self.length - 1):
            if self.graph is None:
                self.step()
            else:
                self.graph.replay()
            # the last few of thousands aren't waited for
            if t % 16 == 15 and self.over.float().mean() > 0.98:
                break
        tokens, ends, over = self.tokens.cpu().numpy(), self.ends.cpu().numpy(), self.over.cpu().numpy()
        return [(tokens[i, len(g):ends[i] - (1 if over[i] else 0)].tolist(), bool(over[i])) for i, g in enumerate(given)]


def generate(model: Llama, passages: list[str], path: str, o, note) -> int:
    """
    Writes conversations as JSON lines `{kind, user, assistant, ended}` until `o.generate_seconds` are over. A story that is not ended within its length stays, up to its last sentence.

    Kinds by turns: `story`; `question`; `reading`; `own`, a question that the teacher makes up, given an empty turn of the user.
    """
    t, began, count, characters, n = model.tokenizer, time.time(), 0, 0, o.generate_batch
    stop = t.token_to_id(IM_END)
    encode = lambda text: t.encode(text, add_special_tokens=False).ids
    random = np.random.default_rng(o.seed)
    torch.manual_seed(o.seed)
    kinds = ["story", "question", "own", "story", "reading", "question", "own"]
    answer = {kind: (lambda size: lambda: Sampler(model, n, size, 0.7, stop))(size) for kind, size in (("story", 448), ("question", 256), ("reading", 384))}
    answer["own"] = answer["question"]
    samplers: dict = {}

    def sampler(kind: str) -> Sampler:
        # one at a time: its cache takes tens of gigabytes
        if kind not in samplers:
            samplers.clear()
            samplers[kind] = Sampler(model, n, 128, 1.0, stop) if kind == "asking" else answer[kind]()
        return samplers[kind]

    with open(path, "w", encoding="utf-8") as f:
        for turn in range(10**9):
            spent = time.time() - began
            if turn > 0 and spent * (turn + 1) / turn > o.generate_seconds:
                break
            kind = kinds[turn % len(kinds)]
            if kind == "own":
                empty = prompts.turn("system", prompts.DEFAULT) + f"{IM_START}user\n"
                asked = sampler("asking").run([encode(empty)] * n)
                users = [t.decode(a).strip() for a, ended in asked if ended]
                # questions that want code, tables or long sums are not for a model of this size
                users = [u for u in users if 8 < len(u) < 300 and u.isascii() and not any(x in u for x in ("```", "def ", "{", "\\", "Python", "function", "code"))]
                given = [(prompts.BRIEF, u) for u in dict.fromkeys(users)]
            else:
                # few stories are asked for in different words, but no two answers are the same
                given = [prompts.draw(random, kind, passages) for _ in range(n)]
            ids = [encode(prompts.turn("system", s) + prompts.turn("user", u) + f"{IM_START}assistant\n") for s, u in given]
            most = {"story": 100, "question": 100, "own": 150, "reading": 250}[kind]
            kept = [i for i in range(len(ids)) if len(ids[i]) <= most]
            for i, (ids_of, ended) in zip(kept, sampler(kind).run([ids[i] for i in kept])):
                text = t.decode(ids_of).strip()
                if not ended:
                    text = text[: max(text.rfind(end) for end in (". ", "! ", "? ", '." ')) + 1] if kind == "story" else ""
                if len(text) > 15 and fluent(text):
                    f.write(json.dumps(dict(kind=kind, user=given[i][1], assistant=text, ended=ended), ensure_ascii=False) + "\n")
                    count, characters = count + 1, characters + len(given[i][1]) + len(text)
            note(f"{kind}: {len(kept)} asked; {count} conversations, {characters / 1e6:.1f} MB in all")
    return count


def fluent(text: str) -> bool:
    """No loop: among its lines and its runs of four words few are the same; no name of the teacher."""
    words = text.split()
    runs = [tuple(words[i:i + 4]) for i in range(len(words) - 3)]
    return (not runs or len(set(runs)) > 0.85 * len(runs)) and "SmolLM" not in text and "Hugging Face" not in text and "```" not in text


def conversations(path: str, stories: list[str], seed: int) -> list[str]:
    """
    Documents of what `generate` wrote: a third of the conversations are joined to two or three turns, since people go on talking; TinyStories as answers to a wish
    for a story; and who tiny is.
    """
    random = np.random.default_rng(seed)
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    pairs = [(r["user"], r["assistant"]) for r in rows if r.get("ended", True)]
    wishes = ["Tell me a story.", "Write a short story.", "Tell me a short story.", "Can you tell me a story?", "Write a story for children."]
    pairs += [(wishes[int(random.integers(len(wishes)))], s.strip()) for s in stories]
    own = [(q, a) for asked, answers in prompts.SELF for q in asked for a in answers]
    pairs += own * max(1, len(pairs) // (100 * len(own)))
    out, at, order = [], 0, random.permutation(len(pairs))
    while at < len(order):
        turns = 1 if random.random() < 0.67 else int(random.integers(2, 4))
        taken = [pairs[i] for i in order[at:at + turns]]
        out.append("".join(prompts.turn("user", u) + prompts.turn("assistant", a) for u, a in taken))
        at += turns
    # stories that go on after what was written: without the mark of their end
    return out + [prompts.turn("user", r["user"]) + f"{IM_START}assistant\n{r['assistant']}" for r in rows if not r.get("ended", True)]
