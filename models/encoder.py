"""The encoder of torch itself, `nn.TransformerEncoder`, at small size, in both of its layouts.

Batch first: with a padding mask, normalised after, ReLU. Sequence first, torch's default: with a mask of who may look at whom, which has no
batch axis, normalised before, GELU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, LAYERS, HEADS, INNER, TOKENS = 64, 2, 4, 128, 16


class Encoder(nn.Module):
    """Vectors of tokens, and a mask that is true where there is nothing to look at, to vectors of tokens."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        activation, norm = ("relu", None) if batch_first else ("gelu", nn.LayerNorm(WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, INNER, dropout=0.0, activation=activation, batch_first=batch_first, norm_first=not batch_first
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm, enable_nested_tensor=False)

    def forward(
        self, src: Tensor, src_key_padding_mask: Tensor | None = None, mask: Tensor | None = None, return_dict: bool = True
    ) -> dict[str, Tensor]:
        """[N, T, width] or [T, N, width], padding [N, T], mask [T, T]; the answer is named as those of `transformers` are.

        Without `is_causal` torch looks at the mask while it is exported: dynamo cannot follow that, torchscript drops a causal mask.
        """
        return {"last_hidden_state": self.encoder(src, mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=False)}


def batch_first() -> dict[str, Tensor]:
    """One sample and its padding."""
    generator = torch.Generator().manual_seed(0)
    return {"src": torch.randn(1, TOKENS, WIDTH, generator=generator), "src_key_padding_mask": torch.zeros(1, TOKENS, dtype=torch.bool)}


def sequence_first() -> dict[str, Tensor]:
    """One sample, and a mask that lets tokens look at themselves and what came before."""
    generator = torch.Generator().manual_seed(0)
    later = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    return {"src": torch.randn(TOKENS, 1, WIDTH, generator=generator), "mask": later}
