"""Decoders of published sizes with random weights: for schedules, cycles and estimates, where what matters are shapes.

    python models/decoder_shapes.py bitnet_073b bitnet.onnx --layers 1

Writes the model (weights beside it), bitnet.npz with random tokens, and bitnet.yaml with the formats of its weights. Ternary weights are
drawn as -1, 0 or 1 times a scale of their matrix; others are uniform. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

TOKENS, SAMPLES = 64, 4
HEAD = "*head*"
"""Pattern of the name of the last product."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder, the format of the weights of its layers, and what these have: norms before the last products of attention and
    of the feed-forward block (`sub_norms`), norms of the queries and keys of a head (`head_norms`), squared ReLU in place of SiLU."""

    title: str
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    weights: str
    group: int = 0
    sub_norms: bool = False
    head_norms: bool = False
    squared: bool = False


SHAPES = {
    "bitnet_073b": DecoderShape("BitNet 0.73B", 1536, 4096, 24, 16, 16, 96, 32002, "ternary"),
    "bitnet_2b4t": DecoderShape("BitNet-b1.58-2B-4T", 2560, 6912, 30, 20, 5, 128, 128256, "ternary", sub_norms=True, squared=True),
    "qwen3_06b": DecoderShape("Qwen3-0.6B", 1024, 3072, 28, 16, 8, 128, 151936, "int4", 32, head_norms=True),
}
"""BitNet 0.73B as TeLLMe v2 runs it (arXiv 2510.15926), BitNet-b1.58-2B-4T (arXiv 2504.12285), Qwen3-0.6B (arXiv 2505.09388)."""


class Linear(nn.Module):
    """Without bias; ternary weights, or uniform ones, of the size that keeps signals as large as they are."""

    def __init__(self, inputs: int, outputs: int, ternary: bool) -> None:
        super().__init__()
        drawn = torch.randint(-1, 2, (outputs, inputs)).float() if ternary else (torch.rand(outputs, inputs) - 0.5) * 3**0.5
        self.weight = nn.Parameter(drawn * (1.5 / inputs) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return functional.linear(x, self.weight)


class Norm(nn.Module):
    """RMSNorm, spelled as exporters do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.8 + 0.4 * torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width]."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Layer(nn.Module):
    """Attention and a gated feed-forward block."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape, ternary = shape, shape.weights == "ternary"
        wide = shape.heads * shape.head
        self.before, self.between = Norm(shape.width), Norm(shape.width)
        self.query = Linear(shape.width, wide, ternary)
        self.key, self.value = (Linear(shape.width, shape.kv_heads * shape.head, ternary) for _ in range(2))
        self.out, self.down = Linear(wide, shape.width, ternary), Linear(shape.hidden, shape.width, ternary)
        self.gate, self.up = (Linear(shape.width, shape.hidden, ternary) for _ in range(2))
        self.before_out = Norm(wide) if shape.sub_norms else nn.Identity()
        self.before_down = Norm(shape.hidden) if shape.sub_norms else nn.Identity()
        self.of_query, self.of_key = (Norm(shape.head) if shape.head_norms else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[1, tokens, width]."""
        shape, tokens = self.shape, x.shape[1]

        def heads(y: Tensor, count: int) -> Tensor:
            return y.reshape(1, tokens, count, shape.head)

        def rotated(y: Tensor) -> Tensor:
            y, half = y.transpose(1, 2), shape.head // 2
            return y * cos + torch.cat([-y[..., half:], y[..., :half]], -1) * sin

        h = self.before(x)
        q = rotated(self.of_query(heads(self.query(h), shape.heads)))
        k = rotated(self.of_key(heads(self.key(h), shape.kv_heads)))
        v = heads(self.value(h), shape.kv_heads).transpose(1, 2)
        if shape.kv_heads < shape.heads:
            repeats = shape.heads // shape.kv_heads
            k, v = (y[:, :, None].expand(1, shape.kv_heads, repeats, tokens, shape.head).flatten(1, 2) for y in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(self.before_out(mixed.transpose(1, 2).flatten(2)))
        h = self.between(x)
        gate = self.gate(h)
        return x + self.down(self.before_down((functional.relu(gate).square() if shape.squared else functional.silu(gate)) * self.up(h)))


class Decoder(nn.Module):
    """Tokens in, logits out."""

    def __init__(self, shape: DecoderShape, layers: int, ternary_head: bool) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(layers))
        self.norm, self.head = Norm(shape.width), Linear(shape.width, shape.vocabulary, ternary_head)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[1, tokens] to [1, tokens, vocabulary]."""
        half = self.shape.head // 2
        angles = torch.arange(input_ids.shape[1], dtype=torch.float32)[:, None] * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = (torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))
        x = self.tokens(input_ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        return logits


def export(name: str, path: Path, layers: int, head: str = "int8") -> tuple[Path, Path]:
    """Write a decoder of so many layers to `path`, its weights beside it; return the files of its calibration inputs and of its formats,
    in which the head has weights of format `head`."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            Decoder(shape, layers, head == "ternary").eval(),
            (torch.zeros(1, TOKENS, dtype=torch.int64),),
            str(path),
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {1: "sequence"}, "logits": {1: "sequence"}},
            opset_version=17,
            dynamo=False,
        )
    calib, config = path.with_suffix(".npz"), path.with_suffix(".yaml")
    np.savez(calib, input_ids=np.random.default_rng(0).integers(0, shape.vocabulary, (SAMPLES, TOKENS)))
    # Random weights gain nothing from a quantizer that takes its time.
    lines = [f"weights: {shape.weights}", f"group_size: {shape.group}", "activations: dynamic", "engine: dsp"]
    lines += [] if shape.weights == "ternary" else ["quantizer: minmax"]
    quantizer = "absmean" if head == "ternary" else "minmax"
    lines += ["layers:", f'  - match: "{HEAD}"', f"    weights: {head}", "    group_size: 0", f"    quantizer: {quantizer}"]
    config.write_text("\n".join(lines) + "\n")
    return calib, config


def main() -> None:
    """Write a model as a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("model", type=Path)
    parser.add_argument("--layers", type=int, help="default: all")
    parser.add_argument("--head", default="int8", choices=("int8", "ternary"))
    args = parser.parse_args()
    calib, config = export(args.shape, args.model, args.layers or SHAPES[args.shape].layers, args.head)
    print(f"attnc compile {args.model} --calib {calib} --config {config} --max-length 512 --block 64")


if __name__ == "__main__":
    main()
