"""A contestant of `bench train`: Transformers' GPT-2 in the loop that one writes by hand, as a program.

    python -m primegpt.bench.transformers_train '{"n_layer": 4, ...}'

It prints the same lines as nanoGPT's train.py.
"""

import json
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.optim.lr_scheduler import LambdaLR


def main(given: SimpleNamespace) -> None:
    """Train for `given.steps` steps on the characters of `given.text`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1337)
    text = Path(given.text).read_text(encoding="utf-8")
    ids = {character: id for id, character in enumerate(sorted(set(text)))}
    data = torch.tensor([ids[character] for character in text[: int(0.9 * len(text))]])
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), given.dropout)
    sizes = {name: getattr(given, name) for name in ("n_layer", "n_head", "n_embd")}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(ids), n_positions=given.block_size, **sizes, **dropout)).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), given.learning_rate, (0.9, given.beta2), weight_decay=given.weight_decay
    )

    def factor(step: int) -> float:
        floor = given.min_lr / given.learning_rate
        return floor + 0.5 * (1 + math.cos(math.pi * step / given.lr_decay_iters)) * (1 - floor)

    schedule = LambdaLR(optimizer, factor)
    positions = torch.arange(given.block_size + 1)
    autocast = torch.autocast("cpu", torch.bfloat16) if given.precision == "bf16" else nullcontext()
    started = time.perf_counter()
    for step in range(given.steps):
        starts = torch.randint(len(data) - given.block_size, (given.batch_size, 1))
        windows = data[starts + positions]  # (B, T + 1)
        with autocast:
            logits = model(windows[:, :-1]).logits  # (B, T, V)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.grad_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        reached, ended = loss.item(), time.perf_counter()
        print(f"iter {step}: loss {reached:.4f}, time {1000 * (ended - started):.2f}ms", flush=True)
        started = ended


if __name__ == "__main__":
    main(SimpleNamespace(**json.loads(sys.argv[1])))
