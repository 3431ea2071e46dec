"""A BERT-shaped encoder with random weights, for tests: token, position and type embeddings, post-norm layers, pooler.

    python models/bert_random.py bert.onnx --exporter torchscript --layers 2

The weights are seeded and drawn so that activations behave like a trained model's: matrices have a standard deviation of
about 1 / sqrt(inputs), attention logits spread over a few units, norms have uneven gains with a few outlier channels.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from torch import nn


class Layer(nn.Module):
    """Post-norm encoder layer: norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.output_norm = nn.LayerNorm(width, eps=1e-12)
        self.activation = nn.GELU()

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, C] -> [B, NH, T, HD]."""
        return x.view(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """`bias` [B, 1, 1, T] is added to the attention logits: 0, or the lowest float for padding."""
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_width) + bias
        context = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        x = self.attention_norm(x + self.output(context))
        return self.output_norm(x + self.down(self.activation(self.up(x))))


class Bert(nn.Module):
    """`input_ids` and `attention_mask` [B, T] to `last_hidden_state` [B, T, C] and `pooler_output` [B, C]."""

    def __init__(self, layers: int, width: int, heads: int, mlp_width: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, found {heads} and {width}")
        self.token, self.position, self.kind = nn.Embedding(vocabulary, width), nn.Embedding(positions, width), nn.Embedding(2, width)
        self.embedding_norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, heads, mlp_width) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        self.register_buffer("position_ids", torch.arange(positions)[None])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode; `attention_mask` is 1 for tokens and 0 for padding."""
        positions = self.position(self.position_ids[:, : input_ids.shape[1]])
        x = self.embedding_norm(self.token(input_ids) + positions + self.kind(torch.zeros_like(input_ids)))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        return x, torch.tanh(self.pooler(x[:, 0]))


def randomize(model: nn.Module, seed: int) -> None:
    """Draw all weights of `model` from `seed`, as the module's docstring says."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                noise = torch.exp(0.25 * noise)
                noise[torch.randperm(len(noise), generator=generator)[: max(1, len(noise) // 128)]] *= 3.0
            elif name.endswith("bias") or name.startswith(("token", "position", "kind")):
                noise *= 0.05
            else:
                # Queries and keys get more, so that the softmax is neither uniform nor one-hot.
                gain = 1.4 if "query" in name or "key" in name else 1.0
                noise *= gain / math.sqrt(parameter.shape[1])
            parameter.copy_(noise)


def build(
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    mlp_width: int | None = None,
    vocabulary: int = 1000,
    sequence: int = 32,
    seed: int = 0,
) -> Bert:
    """A model in evaluation mode for up to `sequence` tokens; `mlp_width` is 4 * width unless given."""
    model = Bert(layers, width, heads, mlp_width or 4 * width, vocabulary, sequence)
    randomize(model, seed)
    return model.eval()


def sample_inputs(batch: int, sequence: int, vocabulary: int = 1000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens and a mask with padding at the end of every sample but the first; both int64 [batch, sequence]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (batch, sequence), generator=generator)
    length = torch.randint(max(1, sequence // 2), sequence + 1, (batch, 1), generator=generator)
    length[0] = sequence
    return tokens, (torch.arange(sequence)[None] < length).long()


def export(
    path: str | Path,
    exporter: str = "dynamo",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    mlp_width: int | None = None,
    vocabulary: int = 1000,
    sequence: int = 32,
    seed: int = 0,
    opset: int = 18,
    dynamic_sequence: bool = True,
) -> Bert:
    """Write the model to `path`, weights inside, batch (and sequence) dynamic; return it in torch."""
    if exporter not in ("dynamo", "torchscript"):
        raise ValueError(f"exporter must be 'dynamo' or 'torchscript', found {exporter!r}")
    model = build(layers, width, heads, mlp_width, vocabulary, sequence, seed)
    # An example shorter than `sequence`, so that neither dimension is taken for a constant.
    example = sample_inputs(2, sequence - 1 if dynamic_sequence else sequence, vocabulary, seed)
    inputs, outputs = ["input_ids", "attention_mask"], ["last_hidden_state", "pooler_output"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shape = {0: torch.export.Dim("batch")}
            if dynamic_sequence:
                shape[1] = torch.export.Dim("sequence", max=sequence)
            program = torch.onnx.export(
                model,
                example,
                input_names=inputs,
                output_names=outputs,
                opset_version=opset,
                dynamo=True,
                dynamic_shapes={name: dict(shape) for name in inputs},
                verbose=False,
            )
            assert program is not None
            program.save(str(path), external_data=False)
        else:
            axes = {name: {0: "batch", 1: "sequence"} if dynamic_sequence else {0: "batch"} for name in [*inputs, outputs[0]]}
            axes[outputs[1]] = {0: "batch"}
            torch.onnx.export(
                model, example, str(path), input_names=inputs, output_names=outputs, opset_version=opset, dynamo=False, dynamic_axes=axes
            )
    return model


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--exporter", choices=["dynamo", "torchscript"], default="dynamo")
    for name, default in (("layers", 2), ("width", 64), ("heads", 4), ("vocabulary", 1000), ("sequence", 32), ("seed", 0), ("opset", 18)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = vars(parser.parse_args())
    export(**args)
    print(f"{args['path']}: {args['path'].stat().st_size} bytes")


if __name__ == "__main__":
    main()
