"""
Makes the model that comes with rsparse, from text to a folder that `rsparse pack` reads.

    python tools/train_tiny/tiny.py --data FOLDER --held FOLDER --teacher SmolLM2.gguf --out FOLDER

Stages: tokenizer, generate, train, write. Each leaves a file in `--out` and is passed over where that is there. See README.md.
"""

import argparse
import gzip
import json
import os
import time

import numpy as np
import torch

import corpus
import data
import model as net
import teacher
import train
import write


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="folder of the training texts, .txt.xz")
    p.add_argument("--held", help="folder of texts to measure on, NAME.dev.txt.gz")
    p.add_argument("--teacher", help="SmolLM2-135M-Instruct as .gguf or a folder; needed where conversations.jsonl is not in --out")
    p.add_argument("--out", required=True)
    p.add_argument("--stages", default="tokenizer,generate,train,write", help="which of them to run, in this order")
    p.add_argument("--vocabulary", type=int, default=6144)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--generate-seconds", type=float, default=200)
    p.add_argument("--generate-batch", type=int, default=4096, help="conversations at once")
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--seconds", type=float, help="ends training after so long where steps would take longer; rates fall by what comes first")
    p.add_argument("--fall", type=float, default=0.5, help="share of the run over which rates fall")
    p.add_argument("--batch", type=int, default=128, help="sequences a step")
    p.add_argument("--length", type=int, default=1024)
    p.add_argument("--groups", type=int, default=8, help="sparsities a step; each has an equal part of its sequences")
    p.add_argument("--dense", type=int, default=2, help="how many of the groups run dense")
    p.add_argument("--power", type=float, default=0.5, help="under 1 draws high sparsities oftener: 0.5 as often as they are high")
    p.add_argument("--most", type=float, default=0.8, help="the highest sparsity of training; 0 trains dense")
    p.add_argument("--through", choices=["kept", "all"], default="kept", help="which inputs have a gradient: what the mask kept, or all (straight-through)")
    p.add_argument("--rate", type=float, default=0.02, help="Muon's, of the projections")
    p.add_argument("--rate-embedding", type=float, default=0.004, help="AdamW's, of the embedding; norms have half of it")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--compile", action="store_true")
    p.add_argument("--checkpoint-seconds", type=float, default=120)
    p.add_argument("--name", default="tiny", help="of the trained model's files in --out: tries of other settings beside each other")
    return p.parse_args()


def main():
    o = options()
    began = time.time()
    note = lambda text: print(f"[{time.time() - began:7.1f}] {text}", flush=True)
    at = lambda name: os.path.join(o.out, name)
    os.makedirs(o.out, exist_ok=True)
    stages = o.stages.split(",")
    torch.set_float32_matmul_precision("high")
    texts = corpus.documents(o.data)
    note("read " + ", ".join(f"{k}: {len(v)} documents" for k, v in texts.items()))

    if "tokenizer" in stages and not os.path.exists(at("tokenizer.json")):
        corpus.train_tokenizer(texts, o.vocabulary, o.seed).save(at("tokenizer.json"))
        note("tokenizer trained")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(at("tokenizer.json"))
    if "generate" in stages and not os.path.exists(at("conversations.jsonl")):
        from llama import load

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        big = load(o.teacher).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
        # the beginnings of articles, short enough to be read with a question
        passages = [p for d in texts["wikinews"] + texts["wikipedia"] for p in d.split("\n")[1:3] if 150 < len(p) < 500 and p.isascii()]
        count = teacher.generate(big, passages, at("conversations.part"), o, note)
        os.replace(at("conversations.part"), at("conversations.jsonl"))
        note(f"{count} conversations")
        del big
        if device.type == "cuda":
            torch.cuda.empty_cache()

    docs = dict(texts)
    if os.path.exists(at("conversations.jsonl")):
        docs["conversations"] = teacher.conversations(at("conversations.jsonl"), texts["stories"], o.seed)
    if "train" in stages and not os.path.exists(at(f"{o.name}.pt")):
        tokens = {k: data.encode(tokenizer, v, o.seed) for k, v in docs.items()}
        note("tokens: " + ", ".join(f"{k} {len(v) / 1e6:.1f} M" for k, v in tokens.items()))
        shape = net.Shape(vocabulary=tokenizer.get_vocab_size(), layers=o.layers, context=o.length)
        m, measured = train.train(tokens, held_out(o.held, tokenizer), shape, o, note, at(f"{o.name}.checkpoint"))
        torch.save(dict(model=m.state_dict(), shape=shape.json()), at(f"{o.name}.part"))
        measured |= dict(options={k: v for k, v in vars(o).items() if k not in ("data", "held", "teacher", "out")}, distinct={k: len(v) for k, v in tokens.items()})
        with open(at(f"{o.name}.json"), "w") as f:
            json.dump(measured, f, indent=1)
        os.replace(at(f"{o.name}.part"), at(f"{o.name}.pt"))
        note(f"trained: {measured['steps']} steps, {measured['tokens'] / 1e6:.0f} M tokens in {measured['seconds']:.0f} s")

    if "write" in stages:
        write.folder(at(f"{o.name}.pt"), at("tokenizer.json"), at(o.name))
        write.calibration(docs, at("calibration.jsonl"), o.seed)
        note(f"wrote {at(o.name)}")


def held_out(folder: str | None, tokenizer) -> dict[str, tuple[np.ndarray, int]]:
    """Tokens and bytes of each text that was set aside; documents joined by token 0."""
    out = {}
    for file in sorted(os.listdir(folder)) if folder else []:
        with gzip.open(os.path.join(folder, file), "rt", encoding="utf-8") as f:
            docs = f.read().split("\n<|endoftext|>\n")
        ids = [np.array(tokenizer.encode(d, add_special_tokens=False).ids + [0], dtype=np.uint16) for d in docs if d.strip()]
        out[file.split(".")[0]] = (np.concatenate(ids), sum(len(d.encode()) for d in docs))
    return out


if __name__ == "__main__":
    main()
