"""A vision transformer of any size: pre-norm, class token, learned positions, erf GELU."""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values: [B, T, C] -> [B, T, C]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend over the tokens of each sample."""
        tokens = x.shape[1]
        q, k, v = self.qkv(x).reshape(-1, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.head_width**-0.5) @ k.transpose(-2, -1)
        merged = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(-1, tokens, self.heads * self.head_width)
        return self.out(merged)


class Layer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_width), nn.GELU(), nn.Linear(mlp_width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Images [B, channels, size, size] to logits [B, classes]; the classifier reads the class token after the last norm."""

    def __init__(
        self,
        layers: int = 4,
        width: int = 64,
        heads: int = 4,
        mlp_width: int = 128,
        size: int = 8,
        patch: int = 2,
        channels: int = 1,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if width % heads or size % patch:
            raise ValueError(f"heads must divide width and patch must divide size, found {heads}, {width}, {patch}, {size}")
        self.patch = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.layers = nn.Sequential(*(Layer(width, heads, mlp_width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        nn.init.normal_(self.class_token, std=0.02)
        # As large as the patch embeddings: with a smaller start the network is slow to see where a patch lies.
        nn.init.normal_(self.position, std=0.2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Classify a batch."""
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(image.shape[0], -1, -1), patches], dim=1)
        return self.classifier(self.norm(self.layers(x + self.position))[:, 0])


def export(model: nn.Module, path: str, size: int = 8, channels: int = 1, exporter: str = "dynamo", opset: int = 18) -> None:
    """Write `model` as one ONNX file with input `image` [batch, channels, size, size] and output `logits` [batch, classes]."""
    if exporter not in ("dynamo", "torchscript"):
        raise ValueError(f"exporter must be 'dynamo' or 'torchscript', found {exporter!r}")
    model.eval()
    example = torch.zeros(2, channels, size, size)
    names = {"input_names": ["image"], "output_names": ["logits"], "opset_version": opset}
    if exporter == "dynamo":
        shapes = {"image": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
        # Stack traces would put this machine's paths into the file.
        for node in program.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
        program.save(path, external_data=False)
    else:
        torch.onnx.export(model, (example,), path, dynamo=False, dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}}, **names)


def random_model(seed: int = 0, **shape: int) -> VisionTransformer:
    """A model with random weights that act like a trained model's: matrices of standard deviation 1 / sqrt(inputs), uneven
    norms; `shape` as in VisionTransformer."""
    model = VisionTransformer(**shape)
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
            else:
                noise *= parameter[0].numel() ** -0.5
            parameter.copy_(noise)
    return model.eval()
