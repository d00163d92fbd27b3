"""
Learns the low-rank half of a sparse model, the shares and channels' weights of its sites, gains and biases by self-distillation, and writes an rsparse recipe.

    python tools/learn_factors/learn.py --model MODEL.gguf --text FILE [FILE …] --out recipe.safetensors

The teacher is the model itself, dense; the student is the same weights behind masks, at sparsities drawn anew at each step. See README.md.
"""

import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
import evaluate
import export
from llama import SITES, angles, dense_block, dense_hidden, load
from student import Learned, Student


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="a Llama as .gguf, or a folder with config.json and .safetensors")
    p.add_argument("--text", nargs="+", default=[], metavar="FILE[:TOKENS[xTIMES]]", help="training text: .txt or .jsonl, plain, .gz or .xz")
    p.add_argument("--tokens-file", help="tokens instead of text, .npy; written from --text where it is not there")
    p.add_argument("--layers", type=int, help="only the first so many blocks: to try a command out, no model comes of it")
    p.add_argument("--out", required=True, help="the recipe, .safetensors; what was measured goes beside it, .json")
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--seconds", type=float, help="ends training after so long where steps would take longer; the rates fall by what comes first")
    p.add_argument("--batch", type=int, default=16, help="sequences a step")
    p.add_argument("--length", type=int, default=1024)
    p.add_argument("--groups", type=int, default=4, help="sparsities a step; each has an equal part of its sequences")
    p.add_argument("--low", type=float, default=0.3)
    p.add_argument("--high", type=float, default=0.7)
    p.add_argument("--rank", type=ranks, default="8", help="of all sites, or qkv=8,o=8,gate_up=8,down=16")
    p.add_argument("--input", choices=["inactive", "all"], default="inactive", help="what the factors read")
    p.add_argument("--rate", type=float, default=5e-4, help="of the half of the factors that writes; the half that reads has a fifth of it")
    p.add_argument("--rate-free", type=float, default=2e-4, help="of gains and biases")
    p.add_argument("--rate-shares", type=float, default=2e-3, help="of how much each site skips, and of what its channels are weighed by")
    p.add_argument("--no-scores", action="store_true", help="all channels of a site weigh the same")
    p.add_argument("--dense-prefix", type=float, default=0.25, help="share of the sequences whose beginning runs dense, as a prompt does")
    p.add_argument("--keep-dense", type=int, default=1)
    p.add_argument("--sparsity", type=float, default=0.5, help="the recipe's own")
    p.add_argument("--sample", type=int, default=8192, help="scores of a site that thresholds are taken from while training")
    p.add_argument("--calibrate", type=int, default=48, help="sequences for the final thresholds")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--checkpoint", help="written every 500 steps, and read where it is there")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--eval", action="append", default=[], metavar="NAME=FILE", help="text to measure before and after: NAME=FILE[:PIECES]")
    p.add_argument("--no-before", action="store_true", help="measure afterwards only")
    p.add_argument("--dtype", choices=["i8", "bf16"], default="i8", help="of the factors in the recipe")
    return p.parse_args()


def ranks(text: str) -> dict[str, int]:
    if "=" not in text:
        return {site: int(text) for site in SITES}
    given = dict(part.split("=") for part in text.split(","))
    return {site: int(given.get(site, 0)) for site in SITES}


def divergence(student, teacher, head, weight):
    """Mean KL(teacher || student) of each group, and its gradient into `student` [groups, rows, hidden] times weight [groups], in pieces, since logits are large."""
    groups, rows, _ = student.shape
    grad, means = torch.empty_like(student), []
    for g in range(groups):
        total = 0.0
        for at in range(0, rows, 4096):
            s = student[g, at:at + 4096].detach().requires_grad_(True)
            kl = kl_of(s, teacher[g, at:at + 4096], head) / rows
            (kl * weight[g]).backward()
            grad[g, at:at + 4096] = s.grad
            total += kl.detach()
        means.append(total)
    return torch.stack(means), grad


def kl_of(student, teacher, head):
    p, q = F.log_softmax((teacher @ head.T).float(), -1), F.log_softmax((student @ head.T).float(), -1)
    return (p.exp() * (p - q)).sum()


def main():
    o = options()
    torch.manual_seed(o.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.time()
    note = lambda text: print(f"[{time.time() - began:7.1f}] {text}", flush=True)
    model = load(o.model)
    c = model.config
    c.layers = min(c.layers, o.layers or c.layers)
    model.weights = model.weights[: c.layers]
    if o.tokens_file and os.path.exists(o.tokens_file):
        tokens = np.load(o.tokens_file)
    else:
        if model.tokenizer is None:
            raise SystemExit(f"{o.model}: its tokenizer is not known here: give --tokens-file, or a folder with tokenizer.json")
        tokens = data.tokenize(model.tokenizer, o.text, o.seed)
        if o.tokens_file:
            np.save(o.tokens_file, tokens)
    texts = evaluate.texts(o.eval, model.tokenizer, o.length)
    model.to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    sequences = data.Sequences(tokens, o.length, o.seed)
    cos, sin = angles(c, o.length, device)
    learned = Learned(model, o.rank, o.seed).to(device)
    learned.score.requires_grad_(not o.no_scores)
    student = Student(model, learned, o.input == "inactive", o.compile)
    student.start(sequences.batch(0, o.batch).to(device), cos, sin, (o.low + o.high) / 2)
    # one batch in a hundred thousand of the order of another seed: sequences for thresholds are not of the last steps alone
    held = data.Sequences(tokens, o.length, o.seed + 1).batch(0, o.calibrate).to(device)
    run_teacher = dense_block
    if o.compile:
        global kl_of
        kl_of, run_teacher = torch.compile(kl_of, dynamic=False), torch.compile(dense_block, dynamic=False)

    at_rate = lambda rate, ps, **more: {"params": list(ps), "lr": rate, "base": rate, **more}
    optimizer = torch.optim.AdamW(
        [
            at_rate(o.rate, learned.up),
            at_rate(o.rate / 5, learned.down),
            at_rate(o.rate_free, [*learned.attention_gain, *learned.mlp_gain, learned.final_gain, *learned.bias]),
            at_rate(o.rate_shares, [learned.offset, learned.slope, *learned.score]),
        ],
        betas=(0.9, 0.98), weight_decay=0.0, fused=device.type == "cuda",
    )
    measured = {"options": {**vars(o), "eval": None, "model": os.path.basename(o.model), "text": [os.path.basename(t) for t in o.text]}, "log": []}
    # KL of each tenth of sparsity, followed as it falls, so that every sparsity counts by how much of its own loss is left
    follow, first, before = torch.ones(10, device=device), 0, 0.0
    # what a run has to have in common with the one whose checkpoint it goes on from
    bound = {k: v for k, v in vars(o).items() if k not in ("out", "checkpoint", "eval", "compile", "no_before", "dtype")} | {"model": model.sha256}
    if o.checkpoint and os.path.exists(o.checkpoint):
        saved = torch.load(o.checkpoint, map_location=device, weights_only=True)
        other = [k for k in bound if saved["options"].get(k) != bound[k]]
        if other:
            raise SystemExit(f"{o.checkpoint} is of a run with another {', '.join(other)}: name another, or remove it")
        learned.load_state_dict(saved["learned"])
        optimizer.load_state_dict(saved["optimizer"])
        first, follow, before = saved["step"], saved["follow"], saved["seconds"]
        torch.set_rng_state(saved["random"].cpu())
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"].cpu())
        note(f"goes on from step {first}")
    elif texts and not o.no_before:
        measured["before"] = evaluate.measure(student, held, texts, cos, sin, o, factors=False, note=note)

    random = np.random.default_rng(o.seed)
    start, step = time.time() - before, first - 1
    draws = [(random.random(o.groups), random.random((o.batch, 2))) for _ in range(o.steps)]
    is_over = bool(o.seconds) and before >= o.seconds
    for step in range(first, first if is_over else o.steps):
        u, v = draws[step]
        sparsity = torch.tensor(o.low + (o.high - o.low) * (np.arange(o.groups) + u) / o.groups, device=device, dtype=torch.float32)
        prefix = np.where(v[:, 0] < o.dense_prefix, (v[:, 1] * o.length / 2).astype(int), o.keep_dense)
        dense = torch.arange(o.length, device=device)[None] < torch.tensor(np.maximum(prefix, o.keep_dense), device=device)[:, None]
        batch = sequences.batch(step, o.batch).to(device, non_blocking=True)
        spent = (time.time() - start) / o.seconds if o.seconds else 0
        warm, done = min(1, (step + 1) / 100), min(1, max(step / o.steps, spent))
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.no_grad():
            teacher = dense_hidden(model, batch, cos, sin, run_teacher).view(o.groups, -1, c.hidden)
        hidden, _, kept = student.hidden(batch, sparsity, dense, cos, sin, o.sample)
        tenth = (sparsity * 10).long().clamp(0, 9)
        kls, grad = divergence(hidden.view(o.groups, -1, c.hidden), teacher, model.head, 1 / (o.groups * follow[tenth]))
        optimizer.zero_grad(set_to_none=True)
        hidden.backward(grad.view_as(hidden))
        norm = torch.nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        follow[tenth] = follow[tenth] * 0.95 + kls * 0.05 if step > 20 else kls
        last = step == o.steps - 1 or done == 1
        if step % 100 == 0 or last:
            row = dict(step=step, seconds=round(time.time() - began, 1), kl={f"{i / 10:.1f}": round(float(follow[i]), 4) for i in range(int(o.low * 10), int(o.high * 10 + 0.999))}, norm=round(float(norm), 3))
            measured["log"].append(row)
            note(json.dumps(row))
            if not math.isfinite(row["norm"]):
                raise SystemExit("the gradient is not finite: lower --rate")
        if o.checkpoint and (last or (step + 1) % 500 == 0):
            state = dict(
                learned=learned.state_dict(), optimizer=optimizer.state_dict(), step=step + 1, follow=follow, seconds=time.time() - start, options=bound,
                random=torch.get_rng_state(), random_cuda=torch.cuda.get_rng_state() if device.type == "cuda" else torch.empty(0),
            )
            torch.save(state, o.checkpoint + ".part")
            os.replace(o.checkpoint + ".part", o.checkpoint)
        if last:
            break

    measured["steps"] = step + 1
    points, thresholds, shares = evaluate.thresholds(student, held, cos, sin, o)
    export.write(model, learned, points, thresholds, shares, o, steps=step + 1, distinct=len(tokens))
    note(f"wrote {o.out}, {os.path.getsize(o.out) / 1e6:.1f} MB")
    if texts:
        measured["after"] = evaluate.measure(student, held, texts, cos, sin, o, factors=True, note=note)
    measured["shares"] = {f"{p:.2f}": shares[i].tolist() for i, p in enumerate(points) if round(p * 100) % 10 == 0}
    with open(os.path.splitext(o.out)[0] + ".json", "w") as f:
        json.dump(measured, f, indent=1)


if __name__ == "__main__":
    main()
