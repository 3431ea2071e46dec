"""Transformer-XL (arXiv 1901.02860) at small size, without memory, spelled as `transformers` spelled it: it has the model no more."""

from __future__ import annotations

import torch
from models.family import HEAD, HEADS, INNER, LAYERS, VOCABULARY, WIDTH
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention by content and by relative position, normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv_net, self.r_net = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.o_net, self.layer_norm = nn.Linear(WIDTH, WIDTH, bias=False), nn.LayerNorm(WIDTH)
        self.r_w_bias, self.r_r_bias = nn.Parameter(torch.zeros(HEADS, HEAD)), nn.Parameter(torch.zeros(HEADS, HEAD))

    @staticmethod
    def shifted(x: Tensor) -> Tensor:
        """Row i moved i places: what lies right of the diagonal belongs to the next row, and is masked."""
        padded = torch.cat([x.new_zeros((x.size(0), 1, *x.shape[2:])), x], dim=1)
        return padded.view(x.size(1) + 1, x.size(0), *x.shape[2:])[1:].view_as(x)

    def forward(self, x: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        """[T, N, width], positions [T, width], mask [T, T]."""
        length, batch, _ = x.shape
        q, k, v = (part.view(length, batch, HEADS, HEAD) for part in torch.chunk(self.qkv_net(x), 3, dim=-1))
        positions = self.r_net(r).view(length, HEADS, HEAD)
        content = torch.einsum("ibnd,jbnd->ijbn", q + self.r_w_bias, k)
        position = self.shifted(torch.einsum("ibnd,jnd->ijbn", q + self.r_r_bias, positions))
        scores = (content + position) * HEAD**-0.5
        scores = scores.float().masked_fill(mask[:, :, None, None], -1e30).type_as(scores)
        mixed = torch.einsum("ijbn,jbnd->ibnd", scores.softmax(dim=1), v).reshape(length, batch, WIDTH)
        return self.layer_norm(x + self.o_net(mixed))


class Layer(nn.Module):
    """Attention and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.layer_norm = Attention(), nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))

    def forward(self, x: Tensor, r: Tensor, mask: Tensor) -> Tensor:
        """As `Attention`."""
        x = self.attention(x, r, mask)
        return self.layer_norm(x + self.perceptron(x))


class TransformerXL(nn.Module):
    """Tokens [N, T] to vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, return_dict: bool = True) -> dict[str, Tensor]:
        """As the answers of `transformers`."""
        x = self.embed(input_ids).transpose(0, 1)
        distances = torch.arange(x.shape[0] - 1, -1, -1.0)
        phase = torch.outer(distances, 1 / 10000 ** (torch.arange(0, WIDTH, 2.0) / WIDTH))
        later = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).triu(1)
        for layer in self.layers:
            x = layer(x, torch.cat([phase.sin(), phase.cos()], dim=-1), later)
        return {"last_hidden_state": x.transpose(0, 1)}
