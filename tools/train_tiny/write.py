"""A trained tiny as a folder in Hugging Face's form: configuration, tokenizer, chat template and weights in float16."""

import json
import os
import re

import numpy as np
import torch

from corpus import END, END_TURN
from llama import PATHS
from model import Shape

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def folder(checkpoint: str, tokenizer: str, out: str) -> None:
    from safetensors.torch import save_file

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    shape, state = Shape(**saved["shape"]), saved["model"]
    tensors = {"model.embed_tokens.weight": state["embedding"], "model.norm.weight": state["final_norm"]}
    for i in range(shape.layers):
        for name, path in PATHS.items():
            tensors[f"model.layers.{i}.{path}.weight"] = state[f"blocks.{i}.{name}"]
        tensors[f"model.layers.{i}.input_layernorm.weight"] = state[f"blocks.{i}.attention_norm"]
        tensors[f"model.layers.{i}.post_attention_layernorm.weight"] = state[f"blocks.{i}.mlp_norm"]
    os.makedirs(out, exist_ok=True)
    save_file({k: v.to(torch.float16).contiguous() for k, v in tensors.items()}, os.path.join(out, "model.safetensors"), {"format": "pt"})
    with open(tokenizer, encoding="utf-8") as f:
        ids = {t["content"]: t["id"] for t in json.load(f)["added_tokens"]}
    write = lambda name, value: open(os.path.join(out, name), "w", encoding="utf-8").write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    write("config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16", "vocab_size": shape.vocabulary, "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context, "rms_norm_eps": shape.eps, "rope_theta": shape.theta, "rope_scaling": None, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True, "bos_token_id": ids[END], "eos_token_id": ids[END_TURN],
    })
    write("generation_config.json", {"bos_token_id": ids[END], "eos_token_id": [ids[END_TURN], ids[END]]})
    write("tokenizer_config.json", {
        "tokenizer_class": "GPT2TokenizerFast", "bos_token": END, "eos_token": END_TURN, "unk_token": END, "add_bos_token": False, "add_prefix_space": False,
        "clean_up_tokenization_spaces": False, "model_max_length": shape.context, "chat_template": TEMPLATE,
    })
    with open(tokenizer, encoding="utf-8") as f, open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as g:
        g.write(f.read())


def calibration(docs: dict[str, list[str]], path: str, seed: int) -> None:
    """Text for `rsparse calibrate --data`: beginnings of documents, as many conversations as of all other sources together."""
    random, rows = np.random.default_rng([seed, 2]), []
    others = [name for name in docs if name != "conversations"]
    for i in range(80):
        name = "conversations" if "conversations" in docs and i % 2 == 0 else others[i // 2 % len(others)]
        # marks in a text are text to `calibrate`, not control tokens: they are left out
        text = re.sub(r"<\|im_(start|end)\|>(user\n|assistant\n)?", "", docs[name][int(random.integers(len(docs[name])))])
        rows.append(dict(text=text[:2000]))
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
