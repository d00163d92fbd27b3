"""The recipe's file: docs/formats.md, version 3."""

import json

import torch
from safetensors.torch import save_file

from llama import PATHS, SITES


def write(model, learned, points, thresholds, shares, o, steps: int, distinct: int) -> None:
    """`thresholds` and `shares` [points, layers, sites], as `evaluate.thresholds` gives them."""
    c, tensors, projections, rows = model.config, {}, [], []
    own = points.index(o.sparsity)
    place = {m: (k, site) for k, (site, modules) in enumerate(SITES.items()) for m in modules}
    scored = any(bool((s != 0).any()) for s in learned.score)
    for l in range(c.layers):
        at = {m: f"model.layers.{l}.{PATHS[m]}" for m in PATHS}
        for module, (k, site) in place.items():
            path, first, rank, e = at[module], SITES[site][0], learned.ranks[site], 4 * l + k
            out, inn = c.shape(module)
            row = torch.from_numpy(thresholds[:, l, k]).float()
            rows.append(row)
            share = float(shares[own, l, k])
            projections.append({
                "path": path, "score": "columnNorm" if scored else "abs", "threshold": float(row[own]),
                "rho": round(share / (share + rank_share(c, site, rank)), 6) if rank else 1, "sparsity": round(1 - share, 6),
                "channels": round(share * inn), "rank": rank, "mode": "r_sparse" if rank else "sparse",
                **({"sharedV": at[first]} if rank and module != first else {}),
            })
            skip = sum(c.shape(m)[0] for m in SITES[site][: SITES[site].index(module)])
            scale = learned.output_rms[l, k]
            if rank:
                put(tensors, f"{path}.u", (learned.up[e][skip:skip + out] * scale).T, o.dtype)
                if module == first:
                    put(tensors, f"{path}.v", learned.down[e] / learned.input_rms[l, k], o.dtype)
            if scored:
                tensors[f"{path}.scale"] = f32(learned.score[e].exp())
            tensors[f"{path}.bias"] = f32(learned.bias[e][skip:skip + out] * scale)
        tensors[f"model.layers.{l}.input_layernorm"] = f32(model.attention_norm[l] * (1 + learned.attention_gain[l]))
        tensors[f"model.layers.{l}.post_attention_layernorm"] = f32(model.mlp_norm[l] * (1 + learned.mlp_gain[l]))
    tensors["model.norm"] = f32(model.final_norm * (1 + learned.final_gain))
    tensors["thresholds"] = torch.stack(rows).contiguous()
    recipe = {
        "version": 3, "method": "learned", "compat": "corrected", "modelHash": model.sha256, "model": model.name, "sparsity": o.sparsity,
        "points": points, "rho": round(1 - learned.factor_weights() / c.block / (1 - o.sparsity), 6), "seed": o.seed,
        "calibration": {"source": ", ".join(t.split("/")[-1] for t in o.text) or "tokens", "tokens": steps * o.batch * o.length, "sha256": "", "stream": "sparse"},
        "keepDense": o.keep_dense, "lowRankInput": o.input, "projections": projections,
        "training": {"steps": steps, "batch": o.batch, "length": o.length, "rate": o.rate, "sparsities": [o.low, o.high], "distinctTokens": distinct},
    }
    save_file(tensors, o.out, metadata={"rsparse.recipe": json.dumps(recipe)})


def rank_share(c, site: str, rank: int) -> float:
    """What the factors of a site cost, as a share of its weights."""
    return rank * (c.site_in(site) + c.site_out(site)) / (c.site_in(site) * c.site_out(site))


def f32(t: torch.Tensor) -> torch.Tensor:
    return t.detach().float().cpu().contiguous()


def put(tensors, name: str, value: torch.Tensor, dtype: str) -> None:
    """A factor [rank, n], as bfloat16 or as bytes with one scale a row."""
    v = f32(value)
    if dtype == "bf16":
        tensors[name] = v.bfloat16()
        return
    scale = v.abs().amax(1).clamp_min(1e-12) / 127
    tensors[name] = (v / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    tensors[f"{name}.scale"] = scale
