"""A Llama from a GGUF file or a safetensors folder, in PyTorch: its weights, as float32, and what a pass over many tokens needs."""

import glob
import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

MODULES = ("q", "k", "v", "o", "gate", "up", "down")
"""The seven projections of a block, in the order of a recipe."""

SITES = {"qkv": ("q", "k", "v"), "o": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}
"""Projections with one input: they share a mask, and their factors the half that reads the input."""

PATHS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}

GGUF_NAMES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}


@dataclass
class Config:
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    eps: float
    theta: float
    interleaved: bool  # rotary pairs: (2i, 2i+1) as in GGUF, else (i, i + half)

    def shape(self, module: str) -> tuple[int, int]:
        """(nOut, nIn) of a projection."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q": (q, self.hidden), "k": (kv, self.hidden), "v": (kv, self.hidden), "o": (self.hidden, q),
            "gate": (self.ffn, self.hidden), "up": (self.ffn, self.hidden), "down": (self.hidden, self.ffn),
        }[module]

    def size(self, module: str) -> int:
        out, inn = self.shape(module)
        return out * inn

    @property
    def block(self) -> int:
        """Weights of one block's projections."""
        return sum(self.size(m) for m in MODULES)

    def site_in(self, site: str) -> int:
        return self.shape(SITES[site][0])[1]

    def site_out(self, site: str) -> int:
        return sum(self.shape(m)[0] for m in SITES[site])


@dataclass
class Llama:
    config: Config
    name: str
    sha256: str  # of the weights' files, joined: what rsparse calls the model's hash
    embedding: torch.Tensor  # [vocab, hidden]
    head: torch.Tensor  # [vocab, hidden]; the embedding where they are tied
    final_norm: torch.Tensor
    attention_norm: list[torch.Tensor]
    mlp_norm: list[torch.Tensor]
    weights: list[dict[str, torch.Tensor]]  # by block and site: the site's projections, one under another, [site_out, site_in]
    tokenizer: object

    def to(self, device: torch.device, dtype: torch.dtype) -> "Llama":
        """Moves it there; norms stay float32."""
        self.embedding = self.embedding.to(device, dtype)
        self.head = self.head.to(device, dtype)
        self.final_norm = self.final_norm.to(device)
        self.attention_norm = [g.to(device) for g in self.attention_norm]
        self.mlp_norm = [g.to(device) for g in self.mlp_norm]
        self.weights = [{s: w.to(device, dtype) for s, w in block.items()} for block in self.weights]
        return self


def load(path: str) -> Llama:
    return load_folder(path) if os.path.isdir(path) else load_gguf(path)


def refuse(path: str, found: list[str]) -> None:
    """Ends where a model has what this teacher would leave out: its recipe would be one for another model."""
    if found:
        raise SystemExit(f"{path}: {', '.join(found[:3])} found: models with scaled rotary positions or biases can't be learned for yet")


def sites_of(module_weight) -> dict[str, torch.Tensor]:
    return {site: torch.cat([module_weight(m) for m in modules]) for site, modules in SITES.items()}


def load_gguf(path: str) -> Llama:
    import gguf

    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields[key].contents() if key in reader.fields else None
    arch = field("general.architecture")
    if arch != "llama":
        raise SystemExit(f"{path}: architecture {arch} found, llama wanted")
    get = lambda key, default=None: field(f"{arch}.{key}") if field(f"{arch}.{key}") is not None else default
    tensors = {t.name: t for t in reader.tensors}
    refuse(path, [k for k in ("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear") if get(k) not in (None, "none", 1.0)])
    refuse(path, [n for n in tensors if n == "rope_freqs.weight" or (n.startswith("blk.") and n.endswith(".bias"))])

    def tensor(name: str) -> torch.Tensor:
        t = tensors[name]
        return torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))

    hidden, heads = int(get("embedding_length")), int(get("attention.head_count"))
    embedding = tensor("token_embd.weight")
    config = Config(
        layers=int(get("block_count")), hidden=hidden, ffn=int(get("feed_forward_length")), heads=heads,
        kv_heads=int(get("attention.head_count_kv", heads)), head_dim=int(get("attention.key_length", hidden // heads)),
        vocab=embedding.shape[0], eps=float(get("attention.layer_norm_rms_epsilon")),
        theta=float(get("rope.freq_base", 10000.0)), interleaved=True,
    )
    blocks = range(config.layers)
    return Llama(
        config=config,
        name=field("general.name") or os.path.basename(path),
        sha256=file_hash([path]),
        embedding=embedding,
        head=tensor("output.weight") if "output.weight" in tensors else embedding,
        final_norm=tensor("output_norm.weight"),
        attention_norm=[tensor(f"blk.{l}.attn_norm.weight") for l in blocks],
        mlp_norm=[tensor(f"blk.{l}.ffn_norm.weight") for l in blocks],
        weights=[sites_of(lambda m, l=l: tensor(f"blk.{l}.{GGUF_NAMES[m]}.weight")) for l in blocks],
        tokenizer=gguf_tokenizer(field),
    )


def gguf_tokenizer(field):
    """The byte-level BPE that the file holds, with SmolLM2's rules for what is split first; None where the file's rules are others."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.merges")
    if merges is None or field("tokenizer.ggml.pre") != "smollm":
        return None
    t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    t.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == 3])
    return t


def load_folder(path: str) -> Llama:
    from safetensors import safe_open
    from tokenizers import Tokenizer

    with open(os.path.join(path, "config.json")) as f:
        c = json.load(f)
    files = sorted(glob.glob(os.path.join(path, "*.safetensors")))
    refuse(path, ["rope_scaling"] if c.get("rope_scaling") else [])
    where = {}
    for file in files:
        with safe_open(file, "pt") as f:
            for key in f.keys():
                where[key] = file
    refuse(path, [key for key in where if key.startswith("model.layers.") and key.endswith(".bias")])

    def tensor(name: str) -> torch.Tensor:
        with safe_open(where[name], "pt") as f:
            return f.get_tensor(name).float()

    heads = c["num_attention_heads"]
    config = Config(
        layers=c["num_hidden_layers"], hidden=c["hidden_size"], ffn=c["intermediate_size"], heads=heads,
        kv_heads=c.get("num_key_value_heads", heads), head_dim=c.get("head_dim") or c["hidden_size"] // heads,
        vocab=c["vocab_size"], eps=c["rms_norm_eps"], theta=c.get("rope_theta", 10000.0), interleaved=False,
    )
    embedding, at = tensor("model.embed_tokens.weight"), "model.layers.{}.{}.weight"
    blocks = range(config.layers)
    tokenizer = os.path.join(path, "tokenizer.json")
    return Llama(
        config=config, name=os.path.basename(os.path.normpath(path)), sha256=file_hash(files), embedding=embedding,
        head=tensor("lm_head.weight") if "lm_head.weight" in where else embedding,
        final_norm=tensor("model.norm.weight"),
        attention_norm=[tensor(at.format(l, "input_layernorm")) for l in blocks],
        mlp_norm=[tensor(at.format(l, "post_attention_layernorm")) for l in blocks],
        weights=[sites_of(lambda m, l=l: tensor(at.format(l, PATHS[m]))) for l in blocks],
        tokenizer=Tokenizer.from_file(tokenizer) if os.path.exists(tokenizer) else None,
    )


def file_hash(paths: list[str]) -> str:
    h = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as f:
            while chunk := f.read(1 << 22):
                h.update(chunk)
    return h.hexdigest()


def rms_norm(x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def angles(config: Config, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, [length, head_dim / 2]."""
    i = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float64)
    at = torch.arange(length, device=device, dtype=torch.float64)[:, None] * config.theta ** (-i / config.head_dim)
    return at.cos().float(), at.sin().float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """x [batch, length, heads, head_dim]."""
    c, s = cos[:, None], sin[:, None]
    if interleaved:
        a, b = x[..., 0::2].float(), x[..., 1::2].float()
        return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2).to(x.dtype)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * c - b * s, a * s + b * c], -1).to(x.dtype)


def attend(qkv: torch.Tensor, config: Config, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[batch, length, q + k + v] to [batch, length, heads * head_dim], causal."""
    batch, length, _ = qkv.shape
    h, kv, d = config.heads, config.kv_heads, config.head_dim
    q, k, v = qkv.split([h * d, kv * d, kv * d], -1)
    q = rotate(q.view(batch, length, h, d), cos, sin, config.interleaved).transpose(1, 2)
    k = rotate(k.view(batch, length, kv, d), cos, sin, config.interleaved).transpose(1, 2)
    v = v.view(batch, length, kv, d).transpose(1, 2)
    k, v = k.repeat_interleave(h // kv, 1), v.repeat_interleave(h // kv, 1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, h * d)


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def dense_block(h, w, attention_norm, mlp_norm, cos, sin, config: Config):
    """A block of the teacher."""
    dtype = w["qkv"].dtype
    x = rms_norm(h, attention_norm, config.eps).to(dtype)
    h = h + (attend(x @ w["qkv"].T, config, cos, sin) @ w["o"].T).float()
    x = rms_norm(h, mlp_norm, config.eps).to(dtype)
    return h + (gated(x @ w["gate_up"].T) @ w["down"].T).float()


def dense_hidden(model: Llama, tokens: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, run=dense_block) -> torch.Tensor:
    """The teacher: normalised hidden states [batch, length, hidden], in the weights' type. `run` is its block, compiled or not."""
    h = model.embedding[tokens].float()
    for w, an, mn in zip(model.weights, model.attention_norm, model.mlp_norm):
        h = run(h, w, an, mn, cos, sin, model.config)
    return rms_norm(h, model.final_norm, model.config.eps).to(model.embedding.dtype)
