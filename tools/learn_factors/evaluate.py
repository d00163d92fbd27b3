"""What a student is worth: perplexity, KL and agreement on texts, at thresholds that are set once on training text, as the recipe has them."""

import math

import numpy as np
import torch
import torch.nn.functional as F

import data
from llama import SITES, attend, dense_hidden, gated, rms_norm
from student import Student

SAMPLE = 1 << 18
"""Scores of a site, of each part of the sequences, that final thresholds are quantiles of: the share kept is off by 0.1 % at most."""

GRID = [round(0.05 * i, 2) for i in range(19)]
"""Points of the recipe's dial: 0 to 0.9."""


def texts(named: list[str], tokenizer, length: int):
    """NAME=FILE[:PIECES] to (name, pieces); .npy files hold tokens."""
    out = []
    for item in named:
        name, file = item.split("=", 1)
        file, _, count = file.partition(":")
        if file.endswith(".npy"):
            tokens = np.load(file)
        else:
            documents = data.read(file)
            # documents of JSON lines are followed by token 0; a plain text is one
            joined = [tokenizer.encode(d, add_special_tokens=False).ids + ([0] if ".jsonl" in file else []) for d in documents]
            tokens = np.concatenate([np.array(j) for j in joined])
        out.append((name, data.pieces(tokens, length, int(count) if count else None)))
    return out


@torch.no_grad()
def thresholds(student: Student, held, cos, sin, o):
    """
    Thresholds and kept shares on the sparse stream: points [P], thresholds [P, layers, sites], shares [P, layers, sites].

    Every point has a stream of its own: its thresholds are quantiles of what the student sees while it runs at that point.
    """
    dense = torch.zeros(held.shape, dtype=torch.bool, device=held.device)
    dense[:, : o.keep_dense] = True
    found, kept, part = [], [], 16
    for point in GRID:
        s = torch.tensor([point], device=held.device, dtype=torch.float32)
        per = [student.hidden(held[i:i + part], s, dense[i:i + part], cos, sin, SAMPLE)[1:] for i in range(0, len(held), part)]
        # the mean over parts of the sequences: a quantile of all at once would take all their inputs at once
        found.append(torch.stack([t[..., 0] for t, _ in per]).mean(0))
        kept.append(torch.stack([k[..., 0] for _, k in per]).mean(0))
    table = torch.stack(found)
    table[0] = 0
    return GRID, torch.cummax(table, 0).values.cpu().numpy(), torch.stack(kept).cpu().numpy()


class Fixed(Student):
    """The student with thresholds as a recipe has them, instead of quantiles of what it sees."""

    def __init__(self, student: Student, table: torch.Tensor, factors: bool):
        self.model, self.learned, self.rest = student.model, student.learned, student.rest
        self.table, self.factors = table, factors

    def run(self, tokens, dense, cos, sin):
        m, l, c = self.model, self.learned, self.model.config
        dtype = m.embedding.dtype
        h = m.embedding[tokens].float()
        flat = dense[..., None]
        kept = torch.zeros(c.layers, 4, device=tokens.device)
        sites = list(SITES)

        def run(i, k, x):
            e, name = 4 * i + k, sites[k]
            keep = (x.float().abs() * l.score[e].exp() > self.table[i, k]) | flat
            kept[i, k] = (keep & ~flat).sum() / ((~flat).sum() * x.shape[-1])
            active = x * keep
            y = active @ m.weights[i][name].T
            if self.factors:
                read = x - active if self.rest else x
                low = ((read * (1 / l.input_rms[i, k])) @ l.down[e].to(dtype).T) @ l.up[e].to(dtype).T + l.bias[e].to(dtype)
                y = y + torch.where(flat, 0.0, low * l.output_rms[i, k]).to(dtype)
            return y

        on = 1.0 if self.factors else 0.0
        gain = lambda norm, g: norm * torch.where(flat, 1.0, 1 + g * on)
        for i in range(c.layers):
            x = rms_norm(h, gain(m.attention_norm[i], l.attention_gain[i]), c.eps).to(dtype)
            h = h + run(i, 1, attend(run(i, 0, x), c, cos, sin)).float()
            x = rms_norm(h, gain(m.mlp_norm[i], l.mlp_gain[i]), c.eps).to(dtype)
            h = h + run(i, 3, gated(run(i, 2, x))).float()
        return rms_norm(h, gain(m.final_norm, l.final_gain), c.eps).to(dtype), kept


@torch.no_grad()
def measure(student: Student, held, named, cos, sin, o, factors: bool, note):
    """By sparsity and text: perplexity, KL, agreement, and the share of block weights that is touched. Without factors they cost nothing."""
    l, c = student.learned, student.model.config
    ranks = dict(l.ranks)
    if not factors:
        l.ranks = {s: 0 for s in ranks}  # nothing is learned yet: the channels have all bytes
    points, table, _ = thresholds(student, held, cos, sin, o)
    cost = l.factor_weights() if factors else 0
    size = torch.tensor([c.site_in(s) * c.site_out(s) for s in ranks], device=held.device, dtype=torch.float32)
    head, rows = student.model.head, []
    for at in (None, 0.3, 0.4, 0.5, 0.6, 0.7):
        fixed = None if at is None else Fixed(student, torch.from_numpy(table[points.index(at)]).to(held.device), factors)
        for name, batches in named:
            nll = kl = same = count = scored = kept = 0.0
            for batch in batches:
                batch = batch.to(held.device)
                dense = torch.arange(batch.shape[1], device=held.device)[None].expand_as(batch) < o.keep_dense
                cs, sn = cos[: batch.shape[1]], sin[: batch.shape[1]]
                teacher = dense_hidden(student.model, batch, cs, sn)
                hidden = teacher
                if fixed is not None:
                    hidden, k = fixed.run(batch, dense, cs, sn)
                    kept = kept + (k * size).sum() / (size.sum() * c.layers) * batch.numel()
                for i in range(len(batch)):
                    q = F.log_softmax((hidden[i] @ head.T).float(), -1)
                    nll -= q[:-1].gather(1, batch[i, 1:, None]).sum().double()
                    scored += batch.shape[1] - 1
                    if fixed is not None:
                        p = F.log_softmax((teacher[i] @ head.T).float(), -1)
                        kl += (p.exp() * (p - q)).sum().double()
                        same += (p.argmax(-1) == q.argmax(-1)).sum()
                count += batch.numel()
            row = dict(sparsity=at, text=name, perplexity=round(math.exp(nll / scored), 3))
            if fixed is not None:
                row |= dict(kl=round(float(kl / count), 4), agreement=round(float(same / count), 4), touched=round(float(kept / count) + cost / c.block, 4))
            rows.append(row)
            note(json_line(row))
    l.ranks = ranks
    return rows


def json_line(row) -> str:
    return " ".join(f"{k}={v}" for k, v in row.items())
