"""tiny in PyTorch: a Llama whose projections read what a mask leaves of their inputs."""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

import paths  # noqa: F401
from llama import angles, rms_norm, rotate


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 6144
    hidden: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    ffn: int = 1024
    context: int = 1024
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """(nOut, nIn) of a block's projections."""
        h, kv = self.hidden, self.kv_heads * self.head_dim
        return {"q": (h, h), "k": (kv, h), "v": (kv, h), "o": (h, h), "gate": (self.ffn, h), "up": (self.ffn, h), "down": (h, self.ffn)}

    def json(self) -> dict:
        return asdict(self)


SITES = ("qkv", "o", "gate_up", "down")
"""Inputs of a block, in the order in which shares are given."""


def shares(shape: Shape, sparsity: torch.Tensor) -> torch.Tensor:
    """
    What each site skips when the whole skips `sparsity` [groups]: [4, groups]. The rule of rsparse's method by-site (`siteShares` of src/recipe/budget.ts): down
    0.15 more, o 0.05 to 0.10 more, the rest in equal parts, so that the weights come out.
    """
    size = {m: a * b for m, (a, b) in shape.projections.items()}
    whole, s = sum(size.values()), sparsity.double()
    least, grown = (s / 0.4).clamp(max=1), ((s - 0.4) / 0.1).clamp(0, 1)
    down = (s + 0.15 * least).clamp(max=0.99)
    o = (s + 0.05 * least + 0.05 * grown).clamp(max=0.99)
    rest = (s * whole - down * size["down"] - o * size["o"]) / (whole - size["down"] - size["o"])
    rest = rest.clamp(0, 0.99)
    return torch.stack([rest, o, rest, down]).float()


def masked(x: torch.Tensor, share: torch.Tensor, sample: torch.Tensor, through: bool) -> torch.Tensor:
    """
    x [groups, rows, n] where |x| is above its quantile at `share` [groups], which is taken from places `sample` of all rows. The first of a group's sequences'
    positions is masked as any other.

    `through`: the gradient passes as if nothing were masked (straight-through); otherwise what is masked has none.
    """
    with torch.no_grad():
        size = x.abs().reshape(x.shape[0], -1)
        taken = size[:, sample].float().sort(-1).values
        k = taken.shape[1]
        threshold = taken.gather(1, (share * k).long().clamp(0, k - 1)[:, None])
        threshold = torch.where(share[:, None] > 0, threshold, -1.0)
        mask = (x.abs() > threshold[:, :, None]).to(x.dtype)
    kept = x * mask
    return x + (kept - x).detach() if through else kept


def block(h, w, norms, share, samples, cos, sin, shape: Shape, through: bool):
    """A block: h float32[batch, length, hidden], w its projections in the type that products are in, share [4, groups], samples int64[2, k] for inputs of hidden and of ffn."""
    batch, length, _ = h.shape
    groups, dtype, d = share.shape[1], w[0].dtype, shape.head_dim
    q, k, v, o, gate, up, down = w

    def mask(x, site):
        n = x.shape[-1]
        return masked(x.reshape(groups, -1, n), share[site], samples[0 if n == shape.hidden else 1], through).view(batch, length, n)

    x = mask(rms_norm(h, norms[0], shape.eps).to(dtype), 0)
    qs = rotate((x @ q.T).view(batch, length, shape.heads, d), cos, sin, False).transpose(1, 2)
    ks = rotate((x @ k.T).view(batch, length, shape.kv_heads, d), cos, sin, False).transpose(1, 2)
    vs = (x @ v.T).view(batch, length, shape.kv_heads, d).transpose(1, 2)
    repeat = shape.heads // shape.kv_heads
    a = F.scaled_dot_product_attention(qs, ks.repeat_interleave(repeat, 1), vs.repeat_interleave(repeat, 1), is_causal=True)
    a = mask(a.transpose(1, 2).reshape(batch, length, -1), 1)
    h = h + (a @ o.T).float()
    x = mask(rms_norm(h, norms[1], shape.eps).to(dtype), 2)
    m = mask(F.silu(x @ gate.T) * (x @ up.T), 3)
    return h + (m @ down.T).float()


class Tiny(nn.Module):
    """The model. Weights are float32; products run in `dtype`."""

    def __init__(self, shape: Shape, seed: int, dtype: torch.dtype, through: bool):
        super().__init__()
        self.shape, self.dtype, self.through = shape, dtype, through
        g = torch.Generator().manual_seed(seed)
        normal = lambda *size, std: nn.Parameter(torch.randn(*size, generator=g) * std)
        self.embedding = normal(shape.vocabulary, shape.hidden, std=0.02)
        self.blocks = nn.ModuleList()
        for _ in range(shape.layers):
            b = nn.ParameterDict()
            for name, (out, inn) in shape.projections.items():
                # what writes to the residual stream begins small, so that deep models begin as shallow ones
                std = 1 / math.sqrt(inn) / (math.sqrt(2 * shape.layers) if name in ("o", "down") else 1)
                b[name] = normal(out, inn, std=std)
            b["attention_norm"] = nn.Parameter(torch.ones(shape.hidden))
            b["mlp_norm"] = nn.Parameter(torch.ones(shape.hidden))
            self.blocks.append(b)
        self.final_norm = nn.Parameter(torch.ones(shape.hidden))
        cos, sin = angles(shape, shape.context, torch.device("cpu"))
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.run_block = block

    def forward(self, tokens: torch.Tensor, share: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        """Normalised hidden states [batch, length, hidden]."""
        n = tokens.shape[1]
        h = F.embedding(tokens, self.embedding).float()
        for b in self.blocks:
            w = tuple(b[m].to(self.dtype) for m in self.shape.projections)
            h = self.run_block(h, w, (b["attention_norm"], b["mlp_norm"]), share, samples, self.cos[:n], self.sin[:n], self.shape, self.through)
        return rms_norm(h, self.final_norm, self.shape.eps).to(self.dtype)


def places(groups: int, batch: int, length: int, shape: Shape, size: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Where thresholds look: int64[2, size], places in a group's inputs of hidden and of ffn numbers."""
    rows = batch // groups * length
    return torch.stack([torch.randint(rows * n, (size,), generator=generator) for n in (shape.hidden, shape.ffn)]).to(device)
