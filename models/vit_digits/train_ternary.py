"""Train the digits transformer with ternary weights and export it to ONNX.

    python -m models.vit_digits.train_ternary

Quantization-aware: the forward pass sees each matrix of the layers as scale * {-1, 0, 1}, with the mean magnitude of an output channel
for scale (absmean, BitNet b1.58, arXiv 2402.17764); the gradient passes straight through to the float weights behind it. The exported
file is an ordinary float model whose matrices lie exactly on that grid. Embedding of the patches and classifier stay in float.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from models.vit_digits.train import SEED, VisionTransformer, accuracy, export, fit, load_split
from torch import nn
from torch.nn.utils import parametrize

HERE = Path(__file__).resolve().parent


class Ternary(nn.Module):
    """Weight [N, K] to its nearest multiple -1, 0 or 1 of the mean magnitude of its row."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Ternary values; the gradient of the identity."""
        scale = weight.detach().abs().mean(dim=1, keepdim=True).clamp_min(1e-8)
        grid = scale * (weight.detach() / scale).round().clamp(-1, 1)
        return weight + (grid - weight.detach()) if torch.is_grad_enabled() else grid


def matrices(model: VisionTransformer) -> list[nn.Linear]:
    """What becomes ternary: every matrix of the layers."""
    return [module for module in model.layers.modules() if isinstance(module, nn.Linear)]


def main() -> None:
    """Train, export, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=160, help="passes over the training images")
    parser.add_argument("--output", type=Path, default=HERE / "vit_digits_ternary.onnx")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    train, heldout, train_label, heldout_label = load_split()
    model = VisionTransformer()
    for module in matrices(model):
        parametrize.register_parametrization(module, "weight", Ternary())
    start = time.perf_counter()
    fit(model, torch.from_numpy(train), torch.from_numpy(train_label), args.epochs, rate=2e-3, decay=0.01)
    print(f"trained {args.epochs} epochs in {time.perf_counter() - start:.0f} s")
    with torch.no_grad():
        for module in matrices(model):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    export(model, str(args.output))
    ternary = sum(module.weight.numel() for module in matrices(model))
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"{args.output}: {args.output.stat().st_size} bytes, {ternary} of {total} parameters ternary")
    print(
        f"accuracy: training {accuracy(args.output, train, train_label):.2%}, held out {accuracy(args.output, heldout, heldout_label):.2%}"
    )


if __name__ == "__main__":
    main()
