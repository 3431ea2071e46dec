"""What a family of transformers is: how it is built and randomized, and what it is fed.

Two layers, width 64, four heads. Matrices have a standard deviation of 1 / sqrt(inputs), so that activations neither vanish nor
explode; norms have uneven gains.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from models.small import HEAD, HEADS, INNER, LAYERS, TOKENS, VOCABULARY, WIDTH, signals
from torch import Tensor, nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched: configurations only
import transformers as hf

SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
TEXT: dict[str, Any] = {**SIZES, "vocab_size": VOCABULARY, "max_position_embeddings": 32}
IMAGE: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}
DECODER: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
    "vocab_size": VOCABULARY, "max_position_embeddings": 32, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """How to make a model and example inputs; `outputs` are the fields of its answer that are exported."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    outputs: tuple[str, ...] = ("last_hidden_state",)
    traced_inputs: Callable[[], dict[str, Tensor]] | None = None
    """Other inputs for the torchscript exporter, where it cannot follow what the model does without them."""
    exporters: tuple[str, ...] = ("dynamo", "torchscript")
    """Those of torch that can write it."""


class Exported(nn.Module):
    """A model of `transformers` with positional tensors in and a tuple of tensors out."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names, self.outputs = model, names, outputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The chosen outputs."""
        answer = self.model(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        return tuple(answer[name] for name in self.outputs)


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw all weights from `seed`, as the module's docstring says."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim >= 2 and "embed" not in name and "position" not in name and "bias_table" not in name:
                noise /= math.sqrt(parameter[0].numel())
            elif parameter.ndim >= 2:
                noise *= 0.5
            elif name.endswith("weight") or "gamma" in name or "lambda" in name:
                noise = parameter * torch.exp(0.2 * noise) if parameter.abs().max() > 0 else 0.2 * noise
            else:
                noise *= 0.05
            if "SelfAttention.q.weight" in name:
                noise /= math.sqrt(HEAD)  # T5 divides scores by nothing: its initialisation does
            parameter.copy_(noise)


def settle(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Give batch normalisations the statistics of random inputs: with those they start with, signals die out on the way."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all passes
        norm.train()
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for _ in range(4 if norms else 0):
            model(**{name: torch.from_numpy(signals(rng, (16, *x.shape[1:]))) for name, x in inputs.items()})
    for norm in norms:
        norm.eval()


def tokens(mask: bool = False) -> dict[str, Tensor]:
    """Token numbers, and a padding mask."""
    generator = torch.Generator().manual_seed(0)
    found = {"input_ids": torch.randint(3, VOCABULARY, (1, TOKENS), generator=generator)}
    if mask:
        found["attention_mask"] = torch.ones(1, TOKENS, dtype=torch.int64)
    return found


def masked() -> dict[str, Tensor]:
    """Token numbers with a padding mask."""
    return tokens(True)


def boxed() -> dict[str, Tensor]:
    """Token numbers with a padding mask and the corners of a box for each: left, top, right, bottom."""
    return {**masked(), "bbox": torch.from_numpy(boxes(np.random.default_rng(0), 1))}


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, TOKENS, 4]: right is not left of left, and bottom not above top."""
    return np.sort(rng.integers(0, VOCABULARY, (count, TOKENS, 2, 2)), axis=2).reshape(count, TOKENS, 4)


def pixels(size: int = 32, width: int = 0) -> Callable[[], dict[str, Tensor]]:
    """An image."""
    return lambda: {"pixel_values": torch.randn(1, 3, size, width or size, generator=torch.Generator().manual_seed(0))}


def mel() -> dict[str, Tensor]:
    """A spectrogram of 16 bands and twice as many frames as tokens."""
    return {"input_features": torch.randn(1, 16, 2 * TOKENS, generator=torch.Generator().manual_seed(0))}


def samples(family: Family, names: list[str], count: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Inputs to calibrate and compare with: random tokens or pixels, masks with padding at the end of all samples but the first; along an
    axis of 1 that an input has in front, or on one of their own. A mask without a batch axis is given once."""
    rng = np.random.default_rng(seed)
    example = {**family.inputs(), **(family.traced_inputs() if family.traced_inputs else {})}
    made: dict[str, np.ndarray] = {}
    for name in names:
        own = tuple(example[name].shape)
        shape = (count, *(own[1:] if own[0] == 1 else own))
        if name in ("attention_mask", "src_key_padding_mask"):
            length = np.where(np.arange(count) == 0, shape[1], rng.integers(shape[1] // 2, shape[1] + 1, count))
            kept = np.arange(shape[1]) < length[:, None]
            made[name] = kept.astype(np.int64) if name == "attention_mask" else ~kept
        elif name == "mask":
            made[name] = example[name].numpy()
        elif name == "bbox":
            made[name] = boxes(rng, count)
        elif example[name].is_floating_point():
            made[name] = signals(rng, shape)
        else:
            made[name] = rng.integers(3, VOCABULARY, shape)
    return made


def text(name: str, config: type, model: str, **fields: Any) -> Family:
    """An encoder of text."""
    return Family(name, lambda: getattr(hf, model)(config(**{**TEXT, **fields})), masked)


def image(name: str, config: type, model: str, **fields: Any) -> Family:
    """An encoder of pictures."""
    return Family(name, lambda: getattr(hf, model)(config(**{**IMAGE, **fields})), pixels())


def decoder(name: str, config: type, model: str, **fields: Any) -> Family:
    """A decoder of text, as one pass over a prompt."""
    return Family(name, lambda: getattr(hf, model)(config(**{**DECODER, **fields})), tokens, ("logits",), masked)
