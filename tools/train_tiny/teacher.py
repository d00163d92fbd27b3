"""What the teacher writes: conversations of SmolLM2, made by sampling thousands of them at once."""

import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F

import prompts
from llama import Llama, angles, gated, rms_norm, rotate

IM_END, IM_START = "<|im_end|>", "<|im_start|>"


@torch.no_grad()
def sample(model: Llama, given: list[list[int]], length: int, temperature: float, stop: int, random: torch.Generator, min_p: float = 0.05) -> list[list[int]]:
    """
    Continues each of `given` until `stop` or `length` tokens in all, at a temperature, among tokens of at least `min_p` times the likeliest one's probability.

    Returns what was added, with `stop` at its end where it came. All sequences stand at one position, so prompts are read a token at a time as well.
    """
    c, device, dtype = model.config, model.embedding.device, model.embedding.dtype
    n, kv, d = len(given), c.kv_heads, c.head_dim
    heads = c.heads // kv
    lengths = torch.tensor([len(g) for g in given], device=device)
    tokens = torch.zeros(n, length, dtype=torch.long)
    for i, g in enumerate(given):
        tokens[i, : len(g)] = torch.tensor(g)
    tokens = tokens.to(device)
    keys = torch.zeros(c.layers, n, kv, length, d, device=device, dtype=dtype)
    values = torch.zeros_like(keys)
    cos, sin = angles(c, length, device)
    over = torch.zeros(n, dtype=torch.bool, device=device)
    ends = torch.full((n,), length, device=device)
    for t in range(length - 1):
        h = model.embedding[tokens[:, t]].float()[:, None]
        for i, w in enumerate(model.weights):
            x = rms_norm(h, model.attention_norm[i], c.eps).to(dtype)
            q, k, v = (x @ w["qkv"].T).split([c.heads * d, kv * d, kv * d], -1)
            q = rotate(q.view(n, 1, c.heads, d), cos[t:t + 1], sin[t:t + 1], c.interleaved).view(n, kv, heads, d)
            keys[i, :, :, t] = rotate(k.view(n, 1, kv, d), cos[t:t + 1], sin[t:t + 1], c.interleaved)[:, 0]
            values[i, :, :, t] = v.view(n, kv, d)
            # query heads of one key head stand as rows, so that nothing is repeated
            a = F.scaled_dot_product_attention(q, keys[i, :, :, : t + 1], values[i, :, :, : t + 1])
            h = h + (a.reshape(n, 1, -1) @ w["o"].T).float()
            x = rms_norm(h, model.mlp_norm[i], c.eps).to(dtype)
            h = h + (gated(x @ w["gate_up"].T) @ w["down"].T).float()
        z = (rms_norm(h[:, 0], model.final_norm, c.eps).to(dtype) @ model.head.T).float() / temperature
        z = z.masked_fill(z < z.amax(-1, keepdim=True) + math.log(min_p), -math.inf)
        chosen = (z - torch.empty_like(z).exponential_(generator=random).log_()).argmax(-1)
        free = (t + 1 >= lengths) & ~over
        tokens[:, t + 1] = torch.where(free, chosen, tokens[:, t + 1])
        ended = free & (chosen == stop)
        ends = torch.where(ended, t + 2, ends)
        over |= ended
        # the last few of thousands aren't waited for
        if t % 16 == 15 and over.float().mean() > 0.98:
            break
    tokens, ends, over = tokens.cpu().numpy(), ends.cpu().numpy(), over.cpu().numpy()
    return [tokens[i, len(g):ends[i]].tolist() if over[i] else [] for i, g in enumerate(given)]


def generate(model: Llama, passages: list[str], path: str, o, note) -> int:
    """
    Writes conversations as JSON lines `{kind, user, assistant}` until `o.generate_seconds` are over; what ended within its length only.

    Kinds by turns: `story`; `question`; `reading`; `own`, a question that the teacher makes up, given an empty turn of the user.
    """
    t, began, count, characters = model.tokenizer, time.time(), 0, 0
    stop = t.token_to_id(IM_END)
    encode = lambda text: t.encode(text, add_special_tokens=False).ids
    random, draws = np.random.default_rng(o.seed), torch.Generator(model.embedding.device).manual_seed(o.seed)
    kinds = ["story", "question", "own", "story", "reading", "question", "own"]
    with open(path, "w", encoding="utf-8") as f:
        for turn in range(10**9):
            spent = time.time() - began
            if turn > 0 and spent * (turn + 1) / turn > o.generate_seconds:
                break
            kind = kinds[turn % len(kinds)]
            if kind == "own":
                empty = prompts.turn("system", prompts.DEFAULT) + f"{IM_START}user\n"
                asked = sample(model, [encode(empty)] * o.generate_batch, 110, 1.0, stop, draws)
                users = [t.decode(a[:-1]).strip() for a in asked if a]
                # questions that want code, tables or long sums are not for a model of this size
                users = [u for u in users if 8 < len(u) < 300 and u.isascii() and not any(x in u for x in ("```", "def ", "{", "\\", "Python", "function", "code"))]
                given = [(prompts.BRIEF, u) for u in dict.fromkeys(users)]
            else:
                given = list(dict.fromkeys(prompts.draw(random, kind, passages) for _ in range(o.generate_batch * (3 if kind == "question" else 1))))[: o.generate_batch]
                # few stories are asked for in different words, but no two answers are the same
                given = [given[i % len(given)] for i in range(o.generate_batch)]
            ids = [encode(prompts.turn("system", s) + prompts.turn("user", u) + f"{IM_START}assistant\n") for s, u in given]
            longest = max(map(len, ids))
            answers = sample(model, ids, longest + (400 if kind == "story" else 200), 0.7, stop, draws)
            for (_, user), answer in zip(given, answers):
                text = t.decode(answer[:-1]).strip() if answer else ""
                if len(text) > 15 and fluent(text):
                    f.write(json.dumps(dict(kind=kind, user=user, assistant=text), ensure_ascii=False) + "\n")
                    count, characters = count + 1, characters + len(user) + len(text)
            note(f"{kind}: {len(given)} asked; {count} conversations, {characters / 1e6:.1f} MB in all")
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
    pairs = [(r["user"], r["assistant"]) for r in rows]
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
    return out
