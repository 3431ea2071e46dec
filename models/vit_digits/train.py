"""Train the digits transformer, export it to ONNX and write the calibration and held-out images.

    python -m models.vit_digits.train

Everything is seeded; the split depends on scikit-learn's seed alone, so that `heldout.npz` never changes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from models.vit_digits.model import VisionTransformer, export
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SEED = 0
SPLIT_SEED = 1797
CALIBRATION_IMAGES = 256
PIXEL_MAX = 16.0
"""Pixels of the data set are integers in 0..16; the model takes them divided by this."""


def load_split() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Training images, held-out images [n, 1, 8, 8] in 0..1, and the labels of each; a stratified third is held out."""
    digits = load_digits()
    images = (digits.images / PIXEL_MAX).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train, heldout, train_label, heldout_label = train_test_split(images, labels, test_size=1 / 3, random_state=SPLIT_SEED, stratify=labels)
    return train, heldout, train_label, heldout_label


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift, rotate, scale and brighten each image [n, 1, 8, 8] at random."""
    n = images.shape[0]

    def spread(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    angle, zoom, shear = spread(-0.12, 0.12), spread(0.93, 1.07), spread(-0.1, 0.1)
    # In affine_grid's units the image is 2 wide, so 0.25 is one of its 8 pixels.
    right, down = spread(-0.15, 0.15), spread(-0.15, 0.15)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    theta = torch.stack([torch.stack([cos, shear - sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved * spread(0.9, 1.1)[:, None, None, None]).clamp(0.0, 1.0)


def fit(
    model: VisionTransformer,
    images: torch.Tensor,
    labels: torch.Tensor,
    epochs: int,
    batch: int = 64,
    rate: float = 1e-3,
    decay: float = 0.05,
) -> None:
    """AdamW with a one-cycle learning rate of at most `rate`, in place."""
    generator = torch.Generator().manual_seed(SEED)
    steps = -(-len(images) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=epochs * steps)
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(images), generator=generator).split(batch):
            loss = functional.cross_entropy(model(augment(images[index], generator)), labels[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index)
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:3d} of {epochs}: loss {total / len(images):.4f}")


def accuracy(path: Path, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of images that the exported model classifies right, through onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": images})[0]
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def main() -> None:
    """Train, export, write the data, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=120, help="passes over the training images")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the three files written")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    train, heldout, train_label, heldout_label = load_split()
    model = VisionTransformer()
    start = time.perf_counter()
    fit(model, torch.from_numpy(train), torch.from_numpy(train_label), args.epochs)
    print(f"trained {args.epochs} epochs in {time.perf_counter() - start:.0f} s")

    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "vit_digits.onnx"
    export(model, str(path))
    chosen = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_IMAGES]
    np.savez_compressed(args.output / "calib.npz", image=train[chosen], label=train_label[chosen])
    np.savez_compressed(args.output / "heldout.npz", image=heldout, label=heldout_label)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{path}: {path.stat().st_size} bytes, {parameters} parameters")
    print(f"accuracy: training {accuracy(path, train, train_label):.2%}, held out {accuracy(path, heldout, heldout_label):.2%}")


if __name__ == "__main__":
    main()
