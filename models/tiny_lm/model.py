"""A small language model after BitNet b1.58 (arXiv 2402.17764, 2504.12285): ternary weights, bytes as tokens.

RMSNorm, rotary positions, queries that share keys, a gated feed-forward block with squared ReLU, a norm before every product. While it is
trained, weights are rounded to {-1, 0, 1} times their mean magnitude (a scale per matrix), inputs of products to 8 bits with a scale per
token, and gradients pass as if nothing was rounded. What is exported has rounded weights and does not round inputs: that is the compiler's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of the model."""

    width: int = 160
    hidden: int = 416
    layers: int = 4
    heads: int = 5
    kv_heads: int = 1

    @property
    def head(self) -> int:
        """Channels of a head."""
        return self.width // self.heads


def ternary(weight: Tensor) -> Tensor:
    """absmean: -1, 0 or 1 times the mean magnitude."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1) * scale


def per_token(x: Tensor) -> Tensor:
    """8 bits with a scale for every token."""
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
    return (x / scale).round() * scale


class RMSNorm(nn.Module):
    """In operators that every exporter and version of ONNX has."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] over its root mean square, times a gain."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.gain


class BitLinear(nn.Module):
    """A norm, then a product with ternary weights."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = RMSNorm(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.normal_(self.weight, std=inputs**-0.5)
        self.rounds = True

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        x = self.norm(x)
        if not self.rounds:  # exported: weights are rounded already
            return functional.linear(x, self.weight)
        weight = self.weight + (ternary(self.weight) - self.weight).detach()
        return functional.linear(x + (per_token(x) - x).detach(), weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs are the halves of a head."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


class Block(nn.Module):
    """Attention and feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, kv = shape, shape.kv_heads * shape.head
        self.query, self.key, self.value = (BitLinear(shape.width, n) for n in (shape.width, kv, kv))
        self.out = BitLinear(shape.width, shape.width)
        self.gate, self.up = BitLinear(shape.width, shape.hidden), BitLinear(shape.width, shape.hidden)
        self.down = BitLinear(shape.hidden, shape.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[batch, tokens, width]."""
        batch, tokens, width = x.shape
        shape = self.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.reshape(batch, tokens, count, shape.head).transpose(1, 2)

        q, k = rotate(heads(self.query(x), shape.heads), cos, sin), rotate(heads(self.key(x), shape.kv_heads), cos, sin)
        v = heads(self.value(x), shape.kv_heads)
        k, v = (y.expand(batch, shape.heads, tokens, shape.head) for y in (k, v)) if shape.kv_heads == 1 else (k, v)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(functional.relu(self.gate(x)).square() * self.up(x))


class TinyLM(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        self.tokens = nn.Embedding(VOCABULARY, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.head = BitLinear(shape.width, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[batch, tokens] to [batch, tokens, 256]."""
        half = self.shape.head // 2
        rates = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(input_ids.shape[1], dtype=torch.float32)[:, None] * rates
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        x = self.tokens(input_ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(x)
        return logits


def export(model: TinyLM, path: Path, length: int = 64) -> None:
    """As ONNX, for any number of tokens, with the weights rounded."""
    rounded = TinyLM(model.shape).eval()
    rounded.load_state_dict(model.state_dict())
    for layer in rounded.modules():
        if isinstance(layer, BitLinear):
            with torch.no_grad():
                layer.weight.copy_(ternary(layer.weight))
            layer.rounds = False
    torch.onnx.export(
        rounded,
        (torch.zeros(1, length, dtype=torch.int64),),
        str(path),
        input_names=["input_ids"],
        output_names=["logits"],
        dynamic_axes={"input_ids": {0: "batch", 1: "sequence"}, "logits": {0: "batch", 1: "sequence"}},
        opset_version=17,
        dynamo=False,
    )
