"""SVTR, a reader of text in pictures (arXiv 2205.00159), at small size: `transformers` has none.

Two overlapping convolutions make tokens; blocks mix them, locally (a window around each) or globally; between the stages a convolution
halves the height and not the width, since text runs from left to right. In the end the height is averaged away, and what is left is a
character for each column. Heads have 15 channels, as in the readers that are made of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS, HEADS, CLASSES = (30, 60), (2, 4), 20
MIXERS = (("local", "global"), ("global",))
SIZE, WINDOW = (16, 32), (3, 5)


class Mixing(nn.Module):
    """Attention among tokens of a grid, all of them or those in a window."""

    def __init__(self, width: int, heads: int, grid: tuple[int, int], local: bool) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        rows, columns = (index.flatten() for index in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        near = ((rows[:, None] - rows).abs() <= WINDOW[0] // 2) & ((columns[:, None] - columns).abs() <= WINDOW[1] // 2)
        mask = torch.zeros(near.shape).masked_fill(~near, float("-inf"))
        self.register_buffer("mask", mask if local else None)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] to the same."""
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        scores = q * self.size**-0.5 @ k.transpose(-2, -1)
        scores = scores if self.mask is None else scores + self.mask
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    """Mixing and a perceptron, each with what it is given added and normalised after it, as the paper has it."""

    def __init__(self, width: int, heads: int, grid: tuple[int, int], local: bool) -> None:
        super().__init__()
        self.mixing, self.norm = Mixing(width, heads, grid, local), nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm_after = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, tokens, width] to the same."""
        x = self.norm(x + self.mixing(x))
        return self.norm_after(x + self.perceptron(x))


class Svtr(nn.Module):
    """Pictures [N, 3, *SIZE] to scores of characters [N, columns, CLASSES]."""

    def __init__(self) -> None:
        super().__init__()
        first, second = WIDTHS

        def halving(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.GELU()]

        self.embed = nn.Sequential(*halving(3, first // 2), *halving(first // 2, first))
        self.grids = ((SIZE[0] // 4, SIZE[1] // 4), (SIZE[0] // 8, SIZE[1] // 4))
        self.position = nn.Parameter(torch.zeros(1, self.grids[0][0] * self.grids[0][1], first))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, heads, grid, mixer == "local") for mixer in mixers))
            for width, heads, grid, mixers in zip(WIDTHS, HEADS, self.grids, MIXERS, strict=True)
        )
        self.merge, self.merged = nn.Conv2d(first, second, 3, stride=(2, 1), padding=1), nn.LayerNorm(second)
        self.combine, self.characters = nn.Sequential(nn.Linear(second, second), nn.Hardswish()), nn.Linear(second, CLASSES)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        """The scores, as the answers of `transformers` have them."""
        x = self.stages[0](self.embed(pixel_values).flatten(2).transpose(1, 2) + self.position)
        x = self.merge(x.transpose(1, 2).unflatten(2, self.grids[0])).flatten(2).transpose(1, 2)
        x = self.stages[1](self.merged(x)).unflatten(1, self.grids[1]).mean(dim=1)
        return {"logits": self.characters(self.combine(x))}
