"""Small torch models in the spellings that people write, and their export with both exporters."""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D, HEADS, TOKENS = 16, 4, 5


class SelfAttention(nn.Module):
    """Self-attention in one of several spellings."""

    def __init__(self, style: str, dim: int = D, heads: int = HEADS) -> None:
        super().__init__()
        self.style, self.heads = style, heads
        self.qkv, self.q, self.kv = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.k, self.v, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        h = self.heads
        d = c // h
        if self.style == "timm":
            q, k, v = self.qkv(x).reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "timm_manual":
            q, k, v = self.qkv(x).reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
            y = (q * d**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        elif self.style == "einops":  # rearrange "b n (h d) -> b h n d"
            q, k, v = (part.reshape(b, t, h, d).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
            y = torch.matmul(torch.softmax(torch.matmul(q, k.transpose(-1, -2)) * d**-0.5, dim=-1), v)
        elif self.style == "einops_interleaved":  # "b n (h d qkv) -> qkv b h n d"
            q, k, v = self.qkv(x).reshape(b, t, h, d, 3).permute(4, 0, 2, 1, 3)
            y = torch.einsum("bhij,bhjd->bhid", (torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(d)).softmax(-1), v)
        elif self.style == "separate":
            q, k, v = (part(x).view(b, t, h, d).transpose(1, 2) for part in (self.q, self.k, self.v))
            scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(d)
            y = torch.matmul(F.softmax(scores, dim=-1), v)
        elif self.style == "merged_heads":
            q, k, v = (part(x).view(b, t, h, d).permute(0, 2, 1, 3).reshape(b * h, t, d) for part in (self.q, self.k, self.v))
            y = torch.bmm(torch.softmax(torch.bmm(q * d**-0.5, k.transpose(1, 2)), -1), v).view(b, h, t, d)
        elif self.style == "key_side":
            q, k, v = (part(x).view(b, t, h, d).permute(0, 2, 1, 3) for part in (self.q, self.k, self.v))
            y = ((k * d**-0.5) @ q.transpose(-1, -2)).transpose(-1, -2).softmax(-1) @ v
        elif self.style == "fused_kv":
            q = self.q(x).view(b, t, h, d).transpose(1, 2)
            k, v = self.kv(x).view(b, t, 2, h, d).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "causal":
            q, k, v = self.qkv(x).reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.style == "causal_where":
            q, k, v = self.qkv(x).reshape(b, t, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
            scores = (q @ k.transpose(-2, -1)) / math.sqrt(d)
            scores = scores.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), float("-inf"))
            y = scores.softmax(-1) @ v
        elif self.style == "grouped":
            q = self.q(x).view(b, t, h, d).transpose(1, 2)
            k, v = (part(x)[..., : c // 2].view(b, t, h // 2, d).transpose(1, 2) for part in (self.k, self.v))
            k, v = (part.repeat_interleave(2, dim=1) for part in (k, v))
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "grouped_expand":
            q = self.q(x).view(b, t, h, d).transpose(1, 2)
            k, v = (part(x)[..., :d].view(b, t, 1, d).transpose(1, 2).expand(b, h, t, d) for part in (self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.style == "single":
            return self.out(torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / c**0.5, -1) @ self.v(x))
        elif self.style == "einsum_btd":
            q, k, v = (part(x).view(b, t, h, d) for part in (self.q, self.k, self.v))
            weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(d**-0.5).softmax(-1)
            return self.out(torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, c))
        else:
            raise ValueError(self.style)
        return self.out(y.transpose(1, 2).reshape(b, t, c))


STYLES = (
    "timm", "timm_manual", "einops", "einops_interleaved", "separate", "merged_heads", "key_side", "fused_kv", "causal",
    "causal_where", "grouped", "grouped_expand", "single", "einsum_btd",
)  # fmt: skip


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, style: str = "timm", activation: str = "gelu") -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attention = SelfAttention(style)
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.up(self.norm2(x))
        y = F.gelu(y, approximate="tanh") if self.activation == "gelu_tanh" else getattr(F, self.activation)(y)
        return x + self.down(y)


class Vit(nn.Module):
    """Convolution into patches, class token, position embedding, two layers, classifier on the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, D, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, D)), nn.Parameter(torch.randn(1, 5, D))
        self.blocks = nn.ModuleList([Block(), Block("separate", "gelu_tanh")])
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Bert(nn.Module):
    """Embedding look-ups, post-norm layers with a padding mask, pooler."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.types = nn.Embedding(30, D), nn.Embedding(8, D), nn.Embedding(2, D)
        self.norm = nn.LayerNorm(D)
        self.layers = nn.ModuleList([nn.ModuleDict({
            "q": nn.Linear(D, D), "k": nn.Linear(D, D), "v": nn.Linear(D, D), "o": nn.Linear(D, D), "n1": nn.LayerNorm(D),
            "up": nn.Linear(D, 2 * D), "down": nn.Linear(2 * D, D), "n2": nn.LayerNorm(D)}) for _ in range(2)])  # fmt: skip
        self.pool = nn.Linear(D, D)

    def forward(self, ids: Tensor, attention_mask: Tensor, token_type: Tensor) -> tuple[Tensor, Tensor]:
        b, t = ids.shape
        x = self.norm(self.words(ids) + self.places(torch.arange(t)) + self.types(token_type))
        bias = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * torch.finfo(torch.float32).min
        for layer in self.layers:
            q, k, v = (layer[name](x).view(b, t, HEADS, D // HEADS).transpose(1, 2) for name in "qkv")
            p = (q @ k.transpose(-1, -2) / math.sqrt(D // HEADS) + bias).softmax(-1)
            x = layer["n1"](x + layer["o"]((p @ v).permute(0, 2, 1, 3).reshape(b, t, D)))
            x = layer["n2"](x + layer["down"](F.gelu(layer["up"](x))))
        return x, torch.tanh(self.pool(x[:, 0]))


class MaskedAttention(nn.Module):
    """scaled_dot_product_attention with a mask that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(D, 3 * D)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]).transpose(1, 2).reshape(b, t, c)


class TorchMha(nn.Module):
    """nn.MultiheadAttention with weights returned or not, and a padding mask."""

    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.weights = weights
        self.mha = nn.MultiheadAttention(D, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=self.weights)[0]


ROTARY = ("slices", "unbind", "indexed", "unsqueezed", "other_order", "heads_first", "partial", "halves", "halves_stacked")


class RotaryAttention(nn.Module):
    """Causal attention with a soft cap, its queries and keys turned by [a * cos - b * sin, a * sin + b * cos], as LLaMA writes it.

    `sign` -1 makes something of it that is no rotation. Two heads of 8 channels; one of keys and values with `kv_heads` 1.
    """

    def __init__(self, style: str, kv_heads: int = 2, cap: float = 2.0, sign: int = 1) -> None:
        super().__init__()
        self.style, self.size, self.repeats, self.cap, self.sign = style, D // 2, 2 // kv_heads, cap, sign
        self.q, self.k, self.v = nn.Linear(D, D), nn.Linear(D, kv_heads * self.size), nn.Linear(D, kv_heads * self.size)
        self.out = nn.Linear(D, D)
        angles = torch.arange(TOKENS)[:, None] * 0.7 ** torch.arange(self.turned // 2)
        angles = angles if style == "heads_first" else angles[:, None]
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    @property
    def turned(self) -> int:
        """Channels per head that are turned."""
        return self.size // 2 if self.style == "partial" else self.size

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first and the second of all pairs."""
        if self.style.startswith("halves"):
            return x[..., : self.turned // 2], x[..., self.turned // 2 :]
        split = x.reshape(*x.shape[:-1], -1, 2)
        if self.style == "unbind":
            return split.unbind(-1)  # type: ignore[return-value]
        return (split[..., 0], split[..., 1]) if self.style == "indexed" else (x[..., 0::2], x[..., 1::2])

    def rotate(self, x: Tensor) -> Tensor:
        """The spelling under test."""
        (a, b), cos, sin = self.pairs(x[..., : self.turned]), self.cos, self.sin
        first, second = a * cos - b * sin, a * sin + self.sign * b * cos
        if self.style == "other_order":
            first, second = -(b * sin) + cos * a, cos * b + a * sin
        if self.style == "unsqueezed":
            return torch.cat([first.unsqueeze(-1), second.unsqueeze(-1)], -1).reshape(x.shape)
        if self.style == "halves":
            return torch.cat([first, second], -1)
        y = torch.stack([first, second], -2 if self.style == "halves_stacked" else -1).flatten(-2)
        return torch.cat([y, x[..., self.turned :]], -1) if self.style == "partial" else y

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], -1, self.size) for part in (self.q, self.k, self.v))
        if self.style == "heads_first":
            q, k = (self.rotate(part.transpose(1, 2)) for part in (q, k))
        else:
            q, k = (self.rotate(part).transpose(1, 2) for part in (q, k))
        k, v = (part.repeat_interleave(self.repeats, 1) for part in (k, v.transpose(1, 2)))
        scores = q @ k.transpose(-1, -2) * self.size**-0.5
        scores = torch.tanh(scores / self.cap) * self.cap + torch.full((TOKENS, TOKENS), -math.inf).triu(1)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


def export(
    model: nn.Module, inputs: tuple[Tensor, ...], path: Path, dynamo: bool, opset: int, dynamic: Any = None, names: list[str] | None = None
) -> Path:
    """Export quietly. `dynamic`: {argument: {axis: name}}."""
    model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.backends.mha.set_fastpath_enabled(False)  # type: ignore[no-untyped-call]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(
                model,
                inputs,
                str(path),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=dynamic,
                verbose=False,
                input_names=names,
                external_data=False,
            )
        else:
            keys = names or list(dynamic or {})
            axes = dict(zip(keys, (dynamic or {}).values(), strict=False)) if dynamic else None
            torch.onnx.export(model, inputs, str(path), dynamo=False, opset_version=opset, dynamic_axes=axes, input_names=keys or None)
    return path
