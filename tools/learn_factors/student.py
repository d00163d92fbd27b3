"""
The sparse student: y = W x_A + A B x' + b, x' the whole input or what the mask left of it, with one mask a site.

What is learned lies in `Learned`: how much each site skips at any sparsity of the whole, what its channels are weighed by, gains of the norms and biases
(which cost no matrix), and the factors, whose bytes fewer channels pay for. Thresholds are not parameters: they are quantiles of the scores that this very
pass sees, so they follow the stream while it is trained. Gradients pass the mask's edge as if it were smooth (`masked`): what moves a score past the
threshold, be it the share of the site, the channel's weight or the activation itself, is told what that is worth.
"""

import math

import torch
import torch.nn as nn

from llama import SITES, Config, Llama, attend, gated, rms_norm

START = {"qkv": -0.28, "o": 0.40, "gate_up": -0.28, "down": 0.62}
"""Where allocation starts, in logits of sparsity: at 50 % by-site's 43 % of qkv, gate and up, 60 % of o and 65 % of down (quality.md, section 3)."""

EDGE = 0.25
"""Width of the mask's edge for gradients, in log of the score."""


class Learned(nn.Module):
    def __init__(self, model: Llama, ranks: dict[str, int], seed: int):
        super().__init__()
        c = self.config = model.config
        self.ranks = ranks
        generator = torch.Generator().manual_seed(seed)
        each = lambda make: nn.ParameterList([nn.Parameter(make(site)) for _ in range(c.layers) for site in SITES])
        # share to skip = sigmoid(t(s) + offset + slope (s - 0.5)), t(s) such that the whole skips s
        self.offset = nn.Parameter(torch.tensor([[START[site] for site in SITES]] * c.layers))
        self.slope = nn.Parameter(torch.zeros(c.layers, len(SITES)))
        # gains are 1 + what is here
        self.attention_gain = nn.ParameterList([nn.Parameter(torch.zeros(c.hidden)) for _ in range(c.layers)])
        self.mlp_gain = nn.ParameterList([nn.Parameter(torch.zeros(c.hidden)) for _ in range(c.layers)])
        self.final_gain = nn.Parameter(torch.zeros(c.hidden))
        self.bias = each(lambda site: torch.zeros(c.site_out(site)))
        # log of what a channel's |x| is weighed by in the test
        self.score = each(lambda site: torch.zeros(c.site_in(site)))
        self.down = each(lambda site: torch.randn(ranks[site], c.site_in(site), generator=generator) / math.sqrt(c.site_in(site)))
        self.up = each(lambda site: torch.zeros(c.site_out(site), ranks[site]))
        # root mean squares of inputs and outputs, so that one learning rate fits all sites; set once, from the first batch
        self.register_buffer("input_rms", torch.ones(c.layers, len(SITES)))
        self.register_buffer("output_rms", torch.ones(c.layers, len(SITES)))

    def factor_weights(self) -> int:
        """Weights of a block's factors."""
        c = self.config
        return sum(r * (c.site_in(s) + c.site_out(s)) for s, r in self.ranks.items())

    def shares(self, sparsity: torch.Tensor) -> torch.Tensor:
        """Share of channels that each site skips, [layers, sites, groups], so that channels and factors together keep 1 - sparsity of the weights."""
        c = self.config
        size = torch.tensor([[c.site_in(s) * c.site_out(s) for s in SITES]] * c.layers, device=sparsity.device, dtype=torch.float64)[..., None]
        wanted = sparsity.double() + self.factor_weights() / c.block
        bend = (self.offset[..., None] + self.slope[..., None] * (sparsity - 0.5)).double()
        mean = lambda p: (size * p).sum((0, 1)) / size.sum()
        with torch.no_grad():
            low, high = torch.full_like(wanted, -40), torch.full_like(wanted, 40)
            for _ in range(60):
                t = (low + high) / 2
                over = mean(torch.sigmoid(t + bend)) > wanted
                low, high = torch.where(over, low, t), torch.where(over, t, high)
        # one step of Newton's method carries the gradient that the budget leaves to offsets and slopes
        p = torch.sigmoid(t + bend)
        t = t - (mean(p) - wanted) / mean(p * (1 - p)).detach().clamp_min(1e-9)
        return torch.sigmoid(t + bend).float()


def masked(x, score, share, sample, dense):
    """
    x where the mask is 1: score * |x| above its quantile at `share`, or a dense position.

    x [groups, rows, n]; share [groups]; sample int64[k], places in a group's rows * n to take quantiles from; dense bool[groups, rows, 1].
    Returns x_A, the mask, and the thresholds [groups].
    """
    groups = x.shape[0]
    with torch.no_grad():
        size = (x.abs().float() * score.exp()).reshape(groups, -1)
        taken = size[:, sample].sort(-1).values
        k = taken.shape[1]
        at = lambda p: taken.gather(1, (p * k).long().clamp(0, k - 1)[:, None])[:, 0].clamp_min(1e-20)
        threshold = at(share)
        step = 0.02
        slope = (at(share + step).log() - at(share - step).log()) / (2 * step)
    # Gradients of a smooth edge: a score that grows past it is kept. Since the threshold is a quantile, it rises with what lies at the edge on the mean, so that
    # nothing is kept for free. d log threshold / d share is the slope of the quantiles.
    level = x.float().abs().clamp_min(1e-20).log() + score
    with torch.no_grad():
        far = (level - threshold.log()[:, None, None]) / EDGE
        near = torch.sigmoid(far) * torch.sigmoid(-far) * ~dense
        near = near / near.sum((1, 2), keepdim=True).clamp_min(1e-9)
    shift = (near * level).sum((1, 2))
    edge = threshold.log() + slope * (share - share.detach()) + shift - shift.detach()
    soft = torch.sigmoid((level - edge[:, None, None]) / EDGE)
    hard = ((size.view(x.shape) > threshold[:, None, None]) | dense).float()
    mask = (hard + torch.where(dense, 0.0, soft - soft.detach())).to(x.dtype)
    return x * mask, mask, threshold


def site(x, weight, down, up, bias, score, share, sample, dense, input_rms, output_rms, rest: bool):
    """One site of all tokens: x [batch, length, n] to [batch, length, site_out], the mask's kept share and its thresholds by group."""
    groups, (batch, length, n) = share.shape[0], x.shape
    z = x.view(groups, -1, n)
    kept, mask, threshold = masked(z, score, share, sample, dense)
    y = kept @ weight.T
    low = bias.to(x.dtype)
    if len(down) > 0:
        read = (z - kept) if rest else z
        low = low + ((read * (1 / input_rms)) @ down.to(x.dtype).T) @ up.to(x.dtype).T
    y = y + torch.where(dense, 0.0, low * output_rms).to(x.dtype)
    return y.view(batch, length, -1), threshold, kept_share(mask, dense)


def kept_share(mask, dense):
    with torch.no_grad():
        sparse = (~dense).float()
        return (mask.float().mean(-1, keepdim=True) * sparse).sum((1, 2)) / sparse.sum((1, 2)).clamp_min(1)


def block(h, w, gains, factors, shares, samples, dense, cos, sin, rms, config: Config, rest: bool):
    """A block of the student. `factors`: by site (down, up, bias, score); `rms`: [2, sites]; returns h, thresholds and kept shares [sites, groups]."""
    c, dtype = config, w["qkv"].dtype
    (attention_norm, attention_gain, mlp_norm, mlp_gain) = gains
    flat = dense.view(h.shape[0], h.shape[1], 1)
    gain = lambda norm, g: norm * torch.where(flat, 1.0, 1 + g)
    found = []

    def run(i, name, x):
        y, threshold, kept = site(x, w[name], *factors[i], shares[i], samples[i], dense, rms[0, i], rms[1, i], rest)
        found.append((threshold, kept))
        return y

    x = rms_norm(h, gain(attention_norm, attention_gain), c.eps).to(dtype)
    h = h + run(1, "o", attend(run(0, "qkv", x), c, cos, sin)).float()
    x = rms_norm(h, gain(mlp_norm, mlp_gain), c.eps).to(dtype)
    h = h + run(3, "down", gated(run(2, "gate_up", x))).float()
    return h, torch.stack([t for t, _ in found]), torch.stack([k for _, k in found])


class Student:
    def __init__(self, model: Llama, learned: Learned, rest: bool, compiled: bool):
        self.model, self.learned, self.rest = model, learned, rest
        self.block = torch.compile(block, dynamic=False) if compiled else block

    def hidden(self, tokens, sparsity, dense, cos, sin, sample: int):
        """
        Normalised hidden states [batch, length, hidden] with everything learned in place.

        sparsity f32[groups]: of equal runs of the batch; dense bool[batch, length]; sample: scores a group to take quantiles from.
        Returns thresholds and kept shares [layers, sites, groups] too.
        """
        m, l, c = self.model, self.learned, self.model.config
        dtype, device, groups = m.embedding.dtype, tokens.device, len(sparsity)
        shares = l.shares(sparsity)
        rows = tokens.numel() // groups
        # what is measured has other shapes than what is trained, and is not worth compiling for
        run = self.block if torch.is_grad_enabled() else block
        grouped = dense.view(groups, rows, 1)
        # a site whose rank is 0 has none, whatever lies in its factors
        factors = lambda e, site: (l.down[e], l.up[e]) if l.ranks[site] else (l.down[e][:0], l.up[e][:, :0])
        h = m.embedding[tokens].float()
        thresholds, kept = [], []
        for i in range(c.layers):
            each = [4 * i + k for k in range(4)]
            samples = [torch.randint(rows * c.site_in(s), (sample,), device=device) for s in SITES]
            h, t, k = run(
                h, m.weights[i], (m.attention_norm[i], l.attention_gain[i], m.mlp_norm[i], l.mlp_gain[i]),
                [(*factors(e, s), l.bias[e], l.score[e]) for e, s in zip(each, SITES)], shares[i], samples, grouped, cos, sin,
                torch.stack([l.input_rms[i], l.output_rms[i]]), c, self.rest,
            )
            thresholds.append(t)
            kept.append(k)
        gain = m.final_norm * torch.where(dense[..., None], 1.0, 1 + l.final_gain)
        return rms_norm(h, gain, c.eps).to(dtype), torch.stack(thresholds), torch.stack(kept)

    @torch.no_grad()
    def start(self, tokens, cos, sin, sparsity: float):
        """
        Where factors and scales begin, from one pass that is sparse already.

        Scales: root mean squares of what the factors read and of a site's outputs. Factors: of what the mask drops, d, the projection's own answer in the
        directions that matter most: U the first eigenvectors of W E[d d'] W', the half that reads is U' W, the half that writes U. It is the best that
        so many ranks can do for this site alone, at any sparsity no worse than nothing where they read what the mask left.
        """
        m, l, c = self.model, self.learned, self.model.config
        dtype, names = m.embedding.dtype, list(SITES)
        shares = l.shares(torch.tensor([sparsity], device=tokens.device))
        h = m.embedding[tokens].float()
        size = lambda x: x.float().pow(2).mean().sqrt().clamp_min(1e-6)

        def run(i, k, x):
            e, w = 4 * i + k, m.weights[i][names[k]]
            flat = x.reshape(-1, x.shape[-1]).float()
            inner = x[:, 1:].reshape(-1, x.shape[-1]).float()  # first positions are like no other, and run dense
            cut = inner.abs().flatten()
            cut = cut[torch.randint(len(cut), (1 << 18,), device=cut.device)].sort().values
            kept = flat * (flat.abs() > cut[min(int(shares[i, k, 0] * len(cut)), len(cut) - 1)])
            y, dropped = kept.to(dtype) @ w.T, flat - kept
            read, whole = dropped if self.rest else flat, flat.to(dtype) @ w.T
            l.input_rms[i, k], l.output_rms[i, k] = size(read), size(whole)
            rank = l.ranks[names[k]]
            if rank and self.rest:
                # eigenvectors by subspace iteration: a few products with the tokens' own errors
                error = dropped.to(dtype) @ w.T
                u = torch.randn(w.shape[0], rank + 8, device=w.device)
                for _ in range(8):
                    u = torch.linalg.qr(error.T.float() @ (error.float() @ u)).Q
                small = error.float() @ u
                _, s, v = torch.linalg.svd(small, full_matrices=False)
                u = u @ v[:rank].T
                read_by = u.T @ w.float()
                z = (s[:rank] / math.sqrt(len(flat))).clamp_min(1e-9)
                l.down[e].copy_(read_by * l.input_rms[i, k] / z[:, None])
                l.up[e].copy_(u * z / l.output_rms[i, k])
                y = y + ((dropped @ read_by.T) @ u.T).to(dtype)
            y = y.view(*x.shape[:-1], -1)
            y[:, 0] = whole.view_as(y)[:, 0]
            return y

        for i in range(c.layers):
            x = rms_norm(h, m.attention_norm[i], c.eps).to(dtype)
            h = h + run(i, 1, attend(run(i, 0, x), c, cos, sin)).float()
            x = rms_norm(h, m.mlp_norm[i], c.eps).to(dtype)
            h = h + run(i, 3, gated(run(i, 2, x))).float()
