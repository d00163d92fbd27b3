"""Training text: the tokenizer, and every source as one run of tokens from which sequences are drawn."""

import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

import paths  # noqa: F401
import data

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""Tokens 0, 1 and 2: after a document, and around a turn of a conversation."""

SOURCES = {
    "wikipedia": "wikipedia_core_half.txt.xz",
    "novels": "english_novels.txt.xz",
    "openstax": "openstax.txt.xz",
    "wikinews": "wikinews.txt.xz",
    "stories": "tinystories_sample.txt.xz",
}
"""Texts of the folder that `--data` names."""


def documents(folder: str) -> dict[str, list[str]]:
    """The documents of every source; each is unpacked by a process of its own."""
    with ProcessPoolExecutor(len(SOURCES)) as pool:
        read = pool.map(data.read, [os.path.join(folder, f) for f in SOURCES.values()])
        return dict(zip(SOURCES, read))


def train_tokenizer(texts: dict[str, list[str]], vocabulary: int, seed: int):
    """
    Byte-level BPE over a sample of 6 MB of each source: as much of the simple text as of the encyclopedia, since that is what the model is to write.

    Digits are tokens of their own, as in SmolLM2.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    special = [AddedToken(s, special=True, normalized=False) for s in (END, START_TURN, END_TURN)]
    sample = []
    for docs in texts.values():
        size = 0
        for i in np.random.default_rng(seed).permutation(len(docs)):
            sample.append(docs[i])
            size += len(docs[i])
            if size > 6e6:
                break
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    t.train_from_iterator(sample, trainer)
    return t


class Mixture:
    """Sequences of `length` tokens from several sources, each from a place that the seed and the step give."""

    def __init__(self, tokens: dict[str, np.ndarray], length: int, seed: int, device: torch.device):
        # all of it lies on the device, a fifth of a gigabyte, so that a batch is one gather
        self.start, all_tokens, at = {}, [], 0
        for name, t in tokens.items():
            self.start[name] = (at, len(t))
            all_tokens.append(t)
            at += len(t)
        self.tokens = torch.from_numpy(np.concatenate(all_tokens).astype(np.int16)).to(device)
        self.length, self.seed, self.names = length, seed, list(tokens)

    def batch(self, step: int, size: int, weights: dict[str, float]) -> torch.Tensor:
        """int64[size, length + 1]: inputs and, one further, what follows them."""
        random = np.random.default_rng([self.seed, step])
        p = np.array([weights.get(n, 0.0) for n in self.names])
        places = np.empty(size, dtype=np.int64)
        for i, k in enumerate(random.choice(len(p), size, p=p / p.sum())):
            start, n = self.start[self.names[k]]
            places[i] = start + random.integers(0, n - self.length)
        at = torch.from_numpy(places).to(self.tokens.device)[:, None] + torch.arange(self.length + 1, device=self.tokens.device)
        return self.tokens[at].long() & 0xFFFF
