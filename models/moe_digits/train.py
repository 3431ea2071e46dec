"""Train the digits transformer with experts, export it to ONNX and write the calibration and held-out images.

    python -m models.moe_digits.train

Everything is seeded; images, split and augmentation are those of `vit_digits`. In training each image gets one of the two tasks at random.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from models.moe_digits.model import TASKS, MoeDigits, export
from models.vit_digits.train import augment, load_split
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED, CALIBRATION_IMAGES = 0, 256
BATCH, RATE, DECAY, BALANCE = 64, 1e-3, 0.05, 0.02
"""Images of a step, AdamW's rate and decay, and how much the experts' imbalance counts."""


def answer(digit: Tensor, task: Tensor) -> Tensor:
    """What a task asks of digits [B]."""
    return torch.where(task == 0, digit, digit % 2)


def fit(model: MoeDigits, images: Tensor, digit: Tensor, epochs: int) -> None:
    """AdamW with a one-cycle learning rate, in place."""
    generator = torch.Generator().manual_seed(SEED)
    steps = -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=epochs * steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            task = torch.randint(len(TASKS), (len(index),), generator=generator)
            logits = model(augment(images[index], generator), task)
            loss = functional.cross_entropy(logits, answer(digit[index], task), label_smoothing=0.1) + BALANCE * model.imbalance()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d} of {epochs}: loss {total / len(images):.4f}", flush=True)


def accuracy(path: Path, images: np.ndarray, digit: np.ndarray) -> list[float]:
    """Share of images that the exported model answers right, for each task, through onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = []
    for task in range(len(TASKS)):
        tasks = np.full(len(images), task)
        logits = session.run(["logits"], {"image": images, "task": tasks})[0]
        found.append(float(np.mean(np.argmax(logits, axis=1) == answer(torch.from_numpy(digit), torch.from_numpy(tasks)).numpy())))
    return found


def save(path: Path, images: np.ndarray, digit: np.ndarray, task: np.ndarray) -> None:
    """Inputs and answers."""
    label = answer(torch.from_numpy(digit), torch.from_numpy(task)).numpy()
    np.savez_compressed(path, image=images, task=task, label=label)


def main() -> None:
    """Train, export, write the data, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training images")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the files written")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    train, heldout, train_digit, heldout_digit = load_split()
    model, start = MoeDigits(), time.perf_counter()
    fit(model, torch.from_numpy(train), torch.from_numpy(train_digit), args.epochs)
    print(f"trained {args.epochs} epochs in {time.perf_counter() - start:.0f} s")

    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "moe_digits.onnx"
    export(model, path)
    chosen = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_IMAGES]
    save(args.output / "calib.npz", train[chosen], train_digit[chosen], np.arange(len(chosen)) % len(TASKS))
    for number, name in enumerate(TASKS):
        save(args.output / f"heldout_{name}.npz", heldout, heldout_digit, np.full(len(heldout), number))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{path}: {path.stat().st_size} bytes, {parameters} parameters")
    shares = zip(TASKS, accuracy(path, train, train_digit), accuracy(path, heldout, heldout_digit), strict=True)
    print("; ".join(f"{name}: training {seen:.2%}, held out {unseen:.2%}" for name, seen, unseen in shares))


if __name__ == "__main__":
    main()
