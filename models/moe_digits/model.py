"""The digits transformer with experts and two tasks: which digit an image shows, and whether that is odd.

As `vit_digits`, but the feed-forward network of its second and fourth layer is a mixture of 8 experts of which a token takes 2, with a gate
for each task. The task is an input; each has a classifier of its own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from models.experts import Mixture
from models.vit_digits.model import Attention
from torch import Tensor, nn

TASKS = ("digit", "odd")
WIDTH, HEADS, LAYERS, INNER = 64, 4, 4, 128
EXPERTS, CHOSEN, HIDDEN = 8, 2, 64
SIZE, PATCH, CLASSES = 8, 2, 10


class Layer(nn.Module):
    """x + attention(norm(x)), then x + experts or a feed-forward network of norm(x)."""

    def __init__(self, mixed: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention(WIDTH, HEADS)
        plain = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))
        self.mlp = Mixture(WIDTH, HIDDEN, EXPERTS, CHOSEN, len(TASKS), renormalise=True) if mixed else plain
        self.mixed = mixed

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x))
        return x + (self.mlp(self.norm2(x), task) if self.mixed else self.mlp(self.norm2(x)))


class MoeDigits(nn.Module):
    """Images [B, 1, 8, 8] and the task of each [B] to logits [B, 10]; of the second task, classes 0 (even) and 1 (odd) count."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, WIDTH, kernel_size=PATCH, stride=PATCH)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(0.2 * torch.randn(1, (SIZE // PATCH) ** 2 + 1, WIDTH))
        self.layers = nn.ModuleList(Layer(number % 2 == 1) for number in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Parameter(torch.randn(len(TASKS), WIDTH, CLASSES) * WIDTH**-0.5)
        self.bias = nn.Parameter(torch.zeros(len(TASKS), CLASSES))

    def forward(self, image: Tensor, task: Tensor) -> Tensor:
        """Classify a batch."""
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], dim=1) + self.position
        for layer in self.layers:
            x = layer(x, task)
        return (self.norm(x)[:, :1] @ self.classifier[task])[:, 0] + self.bias[task]

    def imbalance(self) -> Tensor:
        """Of the mixtures, in the last pass of a training: at least 1 each."""
        return torch.stack([layer.mlp.imbalance for layer in self.layers if layer.mixed]).mean()


def export(model: MoeDigits, path: Path) -> None:
    """Write one ONNX file with inputs `image` [batch, 1, 8, 8] and `task` [batch], and output `logits` [batch, 10]."""
    example = (torch.zeros(2, 1, SIZE, SIZE), torch.tensor([0, 1]))
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model.eval(), example, dynamo=True, verbose=False, dynamic_shapes={"image": {0: batch}, "task": {0: batch}},
        input_names=["image", "task"], output_names=["logits"], opset_version=18,
    )  # fmt: skip
    assert program is not None
    for node in program.model.graph.all_nodes():  # stack traces would put this machine's paths into the file
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(str(path), external_data=False)
