"""Training: Muon for the projections, AdamW for the rest, sparsities drawn anew at each step."""

import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import model as net
from corpus import Mixture

EARLY = {"wikipedia": 0.46, "novels": 0.24, "openstax": 0.08, "wikinews": 0.06, "stories": 0.02, "conversations": 0.14}
LATE = {"wikipedia": 0.38, "novels": 0.18, "openstax": 0.08, "wikinews": 0.06, "stories": 0.02, "conversations": 0.28}
"""Shares of the sources before the rates fall and while they do."""
SAMPLE = 4096
"""Places of a group's inputs that a threshold is taken from while training: the share kept is off by 0.8 % of itself."""


def orthogonal(g: torch.Tensor) -> torch.Tensor:
    """The orthogonal matrices nearest to g [n, rows, columns], nearly: five steps of Newton and Schulz in bfloat16 (K. Jordan et al., Muon, 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    turned = x.shape[1] > x.shape[2]
    x = x.mT if turned else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        y = x @ x.mT
        x = a * x + (b * y + c * y @ y) @ x
    return (x.mT if turned else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, of matrices of one shape at once."""

    def __init__(self, matrices, lr: float, momentum: float = 0.95, decay: float = 0.05):
        by_shape: dict = {}
        for p in matrices:
            by_shape.setdefault(tuple(p.shape), []).append(p)
        super().__init__([dict(params=v) for v in by_shape.values()], dict(lr=lr, base=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            ps = group["params"]
            grads = torch.stack([p.grad for p in ps])
            state = self.state[ps[0]]
            held = state.setdefault("momentum", torch.zeros_like(grads))
            held.lerp_(grads, 1 - group["momentum"])
            update = orthogonal(torch.lerp(grads, held, group["momentum"]))
            rate = group["lr"] * max(1.0, update.shape[1] / update.shape[2]) ** 0.5
            torch._foreach_mul_(ps, 1 - rate * group["decay"])
            torch._foreach_add_(ps, list(update.unbind()), alpha=-rate)


def cross_entropy(hidden: torch.Tensor, embedding: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Nats of every token, [batch, length]."""
    z = (hidden @ embedding.T).float()
    return F.cross_entropy(z.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def draw(step: int, o) -> torch.Tensor:
    """Sparsities of a step's groups: the first `dense` of them 0, the others `most` times u^power, u one from each equal part of [0, 1]."""
    random = np.random.default_rng([o.seed, 1, step])
    n = o.groups - o.dense
    u = (np.arange(n) + random.random(n)) / max(n, 1)
    return torch.tensor(np.concatenate([np.zeros(o.dense), o.most * u**o.power]), dtype=torch.float32)


def train(tokens: dict[str, np.ndarray], held: dict[str, tuple[np.ndarray, int]], shape: net.Shape, o, note, checkpoint: str | None) -> tuple[net.Tiny, dict]:
    """
    The trained model, and what was measured: loss while it trained, and bits per byte on texts that were set aside.

    Rates rise over 100 steps, stay, and fall in a line over the last `o.fall` of the run, whose end is `o.steps` or `o.seconds`, whichever comes first.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    m = net.Tiny(shape, o.seed, dtype, o.through == "all").to(device)
    loss_of = cross_entropy
    if o.compile:
        m.run_block = torch.compile(net.block, dynamic=False)
        loss_of = torch.compile(cross_entropy, dynamic=False)
    matrices = [b[name] for b in m.blocks for name in shape.projections]
    rest = [p for n, p in m.named_parameters() if p.ndim == 1]
    muon = Muon(matrices, o.rate)
    adam = torch.optim.AdamW(
        [dict(params=[m.embedding], lr=o.rate_embedding, base=o.rate_embedding), dict(params=rest, lr=o.rate_embedding / 2, base=o.rate_embedding / 2)],
        betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda",
    )
    mixture = Mixture(tokens, o.length, o.seed, device)
    generator = torch.Generator().manual_seed(o.seed)
    step, before = 0, 0.0
    log: list[dict] = []
    if checkpoint and os.path.exists(checkpoint):
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        m.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adam.load_state_dict(saved["adam"])
        step, before, log = saved["step"], saved["seconds"], saved["log"]
        generator.set_state(saved["random"].cpu())
        note(f"goes on from step {step}")
    seconds, start, written = o.seconds or 0, time.time() - before, time.time()
    sums, counted = torch.zeros(o.groups, device=device), 0
    while step < o.steps:
        done = max(step / o.steps, (time.time() - start) / seconds if seconds else 0)
        if done >= 1:
            break
        falls = min(1.0, (1 - done) / o.fall)
        rate = min(1.0, (step + 1) / 100) * falls
        for group in [*muon.param_groups, *adam.param_groups]:
            group["lr"] = group["base"] * rate
        s = draw(step, o).to(device)
        samples = net.places(o.groups, o.batch, o.length, shape, SAMPLE, generator, device)
        batch = mixture.batch(step, o.batch, EARLY if falls == 1 else LATE)
        # neighbours of a batch are of the same source only by chance, so groups see the same mixture
        nats = loss_of(m(batch[:, :-1], net.shares(shape, s), samples), m.embedding.to(dtype), batch[:, 1:])
        muon.zero_grad(set_to_none=True)
        adam.zero_grad(set_to_none=True)
        nats.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_([m.embedding, *rest], 1.0)
        muon.step()
        adam.step()
        sums += nats.detach().view(o.groups, -1).mean(1)
        counted += 1
        if step % 100 == 0:
            by = [round(x, 3) for x in (sums / counted).tolist()]
            sums.zero_()
            counted = 0
            log.append(dict(step=step, seconds=round(time.time() - start, 1), nats=by))
            note(f"step {step}, {done:.0%}: nats by sparsity {by}, norm {float(norm):.2f}")
            if not math.isfinite(by[0]):
                raise SystemExit("the loss is not finite: lower --rate")
        step += 1
        if checkpoint and time.time() - written > o.checkpoint_seconds:
            save(checkpoint, m, muon, adam, step, time.time() - start, log, generator)
            written = time.time()
    # what follows can fail, and training is dear
    if checkpoint:
        save(checkpoint, m, muon, adam, step, time.time() - start, log, generator)
    measured = dict(steps=step, tokens=step * o.batch * o.length, seconds=round(time.time() - start, 1), log=log, held=bits_per_byte(m, held, o, note))
    return m, measured


def save(path: str, m, muon, adam, step: int, seconds: float, log: list, generator) -> None:
    state = dict(model=m.state_dict(), muon=muon.state_dict(), adam=adam.state_dict(), step=step, seconds=seconds, log=log, random=generator.get_state())
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


@torch.no_grad()
def bits_per_byte(m: net.Tiny, held: dict[str, tuple[np.ndarray, int]], o, note) -> dict:
    """By text and sparsity: bits a byte in pieces of the training length, with thresholds that are quantiles of these very passes; rsparse's own figures are what counts."""
    device, out = m.embedding.device, {}
    plain = net.block
    m.run_block, compiled = plain, m.run_block
    generator = torch.Generator().manual_seed(o.seed)
    for s in (0.0, 0.3, 0.5, 0.6, 0.7, 0.8):
        share = net.shares(m.shape, torch.tensor([s])).to(device)
        for name, (ids, size) in held.items():
            nats, n = 0.0, len(ids) // o.length
            for at in range(0, n, 32):
                batch = torch.from_numpy(ids[at * o.length:min(at + 32, n) * o.length].astype(np.int64)).view(-1, o.length).to(device)
                samples = net.places(1, len(batch), o.length - 1, m.shape, 1 << 16, generator, device)
                nats += float(cross_entropy(m(batch[:, :-1], share, samples), m.embedding.to(m.dtype), batch[:, 1:]).double().sum())
            # bytes of the pieces that were scored, less the first token of each
            out.setdefault(name, {})[f"{s}"] = round(nats / math.log(2) / (size * n * (o.length - 1) / len(ids)), 4)
        note(f"bits a byte at {s}: " + json.dumps({k: v[f"{s}"] for k, v in out.items()}))
    m.run_block = compiled
    return out
