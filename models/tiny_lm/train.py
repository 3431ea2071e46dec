"""Train the language model on English that every machine has, export it to ONNX, write calibration and held-out text.

    python models/tiny_lm/train.py

Everything is seeded; on another processor, or with another release of Python, whose documentation is the text, weights differ.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from model import TinyLM, export
from text import split

HERE = Path(__file__).resolve().parent
SEED, LENGTH = 0, 256
CALIBRATION, HELD_OUT = 24, 16
"""Sequences of `LENGTH` tokens that are shipped."""


def fit(model: TinyLM, data: torch.Tensor, steps: int, batch: int, rate: float) -> None:
    """AdamW, a warm-up and a cosine, in place."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05)
    begin, average = time.perf_counter(), 0.0
    for step in range(steps):
        scale = min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        at = torch.randint(0, len(data) - LENGTH - 1, (batch,), generator=generator)
        rows = torch.stack([data[i : i + LENGTH + 1] for i in at]).long()
        logits = model(rows[:, :-1])
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {steps}: {average / math.log(2):.3f} bits per byte, {time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    """Train, export, write the data."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=12, help="sequences of a step")
    parser.add_argument("--rate", type=float, default=4e-3, help="largest rate of learning")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the three files written")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    train, held = split()
    print(f"{len(train):,} bytes to train on, {len(held):,} held out")
    model = TinyLM()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    args.output.mkdir(parents=True, exist_ok=True)
    export(model, args.output / "tiny_lm.onnx")  # what cannot be exported need not be trained
    fit(model, torch.from_numpy(train.copy()), args.steps, args.batch, args.rate)
    export(model.eval(), args.output / "tiny_lm.onnx")
    rng = np.random.default_rng(SEED)
    for name, data, count in (("calib", train, CALIBRATION), ("heldout", held, HELD_OUT)):
        at = rng.integers(0, len(data) - LENGTH, count)
        np.savez_compressed(args.output / f"{name}.npz", input_ids=np.stack([data[i : i + LENGTH] for i in at]).astype(np.int64))


if __name__ == "__main__":
    main()
