"""Text to sequences of tokens."""

import gzip
import json
import lzma
import os

import numpy as np
import torch


def read(path: str) -> list[str]:
    """Documents of a text, between lines `<|endoftext|>`, or of JSON lines with a `text`; packed by xz or gzip, or plain."""
    opener = lzma.open if path.endswith(".xz") else gzip.open if path.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as f:
        text = f.read()
    if ".jsonl" in os.path.basename(path):
        return [json.loads(line)["text"] for line in text.splitlines() if line]
    return [d for d in text.split("\n<|endoftext|>\n") if d.strip()]


def encode(tokenizer, documents: list[str], seed: int, limit: int = 10**12) -> np.ndarray:
    """Documents in random order, each followed by token 0, up to so many tokens."""
    width = np.uint16 if tokenizer.get_vocab_size() <= 65536 else np.uint32
    taken, count, order = [], 0, np.random.default_rng(seed).permutation(len(documents))
    for at in range(0, len(order), 1024):
        for e in tokenizer.encode_batch([documents[i] for i in order[at:at + 1024]], add_special_tokens=False):
            taken.append(np.array(e.ids + [0], dtype=width))
            count += len(taken[-1])
        if count >= limit:
            break
    return np.concatenate(taken)[:limit]


def tokenize(tokenizer, texts: list[str], seed: int) -> np.ndarray:
    """The tokens of FILE[:TOKENS[xTIMES]]: documents in random order, each followed by token 0, up to TOKENS, so many TIMES."""
    out = []
    for text in texts:
        path, _, amount = text.partition(":")
        limit, _, times = amount.partition("x")
        tokens = encode(tokenizer, read(path), seed, int(limit or 10**12))
        print(f"{path}: {len(tokens)} tokens, {times or 1} times", flush=True)
        out += [tokens] * int(times or 1)
    return np.concatenate(out)


class Sequences:
    """Sequences of one length in an order that the seed gives; where they end it begins anew, in another order."""

    def __init__(self, tokens: np.ndarray, length: int, seed: int):
        n = len(tokens) // length
        self.all = torch.from_numpy(tokens[: n * length].astype(np.int32)).view(n, length)
        self.seed, self.n = seed, n

    def batch(self, step: int, size: int) -> torch.Tensor:
        first, out = step * size, []
        for i in range(first, first + size):
            epoch, at = divmod(i, self.n)
            if getattr(self, "epoch", None) != epoch:
                self.epoch = epoch
                self.order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed + epoch))
            out.append(self.all[self.order[at]])
        return torch.stack(out).long()


def pieces(tokens: np.ndarray, length: int, count: int | None = None) -> list[torch.Tensor]:
    """Whole pieces [n, length], then the tail [1, rest] where it is longer than one token and not cut off by `count`."""
    n = len(tokens) // length if count is None else min(count, len(tokens) // length)
    t = torch.from_numpy(tokens.astype(np.int64))
    out = list(t[: n * length].view(n, length).split(16))
    tail = t[n * length:]
    return out + ([tail[None]] if count is None and len(tail) > 1 else [])
