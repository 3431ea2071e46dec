"""M3ViT-T at the size at which Edge-MoE, UbiMoE and CoQMoE report it, with random weights.

    python models/shapes.py m3vit m3vit.onnx          # and m3vit.npz beside it: images and tasks to calibrate with

An image of 3 x 128 x 256 in patches of 16 makes 128 tokens and a class token of 192 channels, for 12 pre-norm layers of 3 heads. The second
layer and every other one after it has 16 experts with a hidden layer of 384, of which each token takes 2, and a gate for each of two tasks;
the others have a feed-forward network of 768. No decoder of a task is part of it: the result are the tokens after the last norm.
"""

from __future__ import annotations

import numpy as np
import torch
from models.experts import Mixture
from models.small import signals
from models.vit_digits.model import Attention
from torch import Tensor, nn

HEIGHT, WIDTH, PATCH = 128, 256, 16
CHANNELS, HEADS, LAYERS, INNER = 192, 3, 12, 768
EXPERTS, CHOSEN, HIDDEN, TASKS = 16, 2, 384, 2


class Layer(nn.Module):
    """x + attention(norm(x)), then x + experts or a feed-forward network of norm(x)."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(CHANNELS), nn.LayerNorm(CHANNELS)
        self.attention = Attention(CHANNELS, HEADS)
        plain = nn.Sequential(nn.Linear(CHANNELS, INNER), nn.GELU(), nn.Linear(INNER, CHANNELS))
        self.mlp = Mixture(CHANNELS, HIDDEN, EXPERTS, CHOSEN, TASKS, renormalise=False) if mixed else plain
        self.mixed = mixed

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x))
        return x + (self.mlp(self.norm2(x), task) if self.mixed else self.mlp(self.norm2(x)))


class M3ViT(nn.Module):
    """Images [B, 3, 128, 256] and the task of each [B] to `tokens` [B, 129, 192]."""

    def __init__(self, layers: int = LAYERS) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, CHANNELS, kernel_size=PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, CHANNELS))
        self.position = nn.Parameter(torch.zeros(1, HEIGHT * WIDTH // PATCH**2 + 1, CHANNELS))
        self.layers = nn.ModuleList(Layer(number % 2 == 1) for number in range(layers))
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, image: Tensor, task: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        """The tokens after the last norm; the answer is named as those of `transformers` are."""
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], dim=1) + self.position
        for layer in self.layers:
            x = layer(x, task)
        return {"tokens": self.norm(x)}


def random_model(seed: int = 0, layers: int = LAYERS) -> M3ViT:
    """Matrices of standard deviation 1 / sqrt(inputs), uneven norms, small biases; gates as large as those of a trained model, whose
    scores are far from equal."""
    model = M3ViT(layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                noise = torch.exp(0.25 * noise)
            elif name.endswith("bias"):
                noise *= 0.05
            elif name in ("class_token", "position"):
                noise *= 0.3
            elif name.endswith((".gate", ".up", ".down")):
                noise *= (2.0 if name.endswith(".gate") else 1.0) * parameter.shape[1] ** -0.5
            else:
                noise *= parameter[0].numel() ** -0.5
            parameter.copy_(noise)
    return model.eval()


def samples(count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Pictures of noise and areas of colour, and tasks in turn."""
    return {"image": signals(np.random.default_rng(seed), (count, 3, HEIGHT, WIDTH)), "task": np.arange(count) % TASKS}
