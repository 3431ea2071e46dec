"""Models of published sizes with random weights, by the `transformers` package from a configuration: for schedules and estimates.

    python models/shapes.py deit_tiny deit_tiny.onnx

Writes the model (weights beside it) and calibration inputs, deit_tiny.npz: noise and areas of colour, random tokens with padding at the
end. Nothing is downloaded. Weights are drawn as `families.randomize` says: what matters here are shapes, and signals that neither die
nor explode.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.family import Exported, hf, randomize, signals
from models.m3vit import model as m3vit

SAMPLES = 32
"""A quarter of them is held out: with fewer, chance could hide so much that `auto` would widen more inputs than it has to."""
TOKENS, VOCABULARY = 128, 30522


@dataclass(frozen=True)
class Shape:
    """How to make a model, `inputs(count)` for it, and the output that is exported."""

    title: str
    model: Callable[[], nn.Module]
    inputs: Callable[[int], dict[str, np.ndarray]]
    output: str
    drawn: bool = False
    """Whether the model has its random weights already."""


def deit_tiny() -> nn.Module:
    """Touvron et al. 2021, without the token of distillation: 12 layers, width 192, 3 heads, patches of 16x16 in 224x224, 1000 classes."""
    return hf.ViTForImageClassification(
        hf.ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, num_labels=1000)
    )


def bert_base() -> nn.Module:
    """Devlin et al. 2019, the encoder alone: 12 layers, width 768, 12 heads, MLP 3072."""
    return hf.BertModel(hf.BertConfig(vocab_size=VOCABULARY), add_pooling_layer=False)


def pictures(count: int) -> dict[str, np.ndarray]:
    """[count, 3, 224, 224]."""
    return {"pixel_values": signals(np.random.default_rng(1), (count, 3, 224, 224))}


def sentences(count: int) -> dict[str, np.ndarray]:
    """Token numbers and masks [count, 128]; all but the first are padded."""
    rng = np.random.default_rng(1)
    length = np.where(np.arange(count) == 0, TOKENS, rng.integers(TOKENS // 2, TOKENS + 1, count))
    mask = (np.arange(TOKENS) < length[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(0, VOCABULARY, (count, TOKENS)), "attention_mask": mask}


SHAPES = {
    "deit_tiny": Shape("DeiT-tiny, 197 tokens", deit_tiny, pictures, "logits"),
    "bert_base": Shape("BERT-base, 128 tokens", bert_base, sentences, "last_hidden_state"),
    "m3vit": Shape("M3ViT-T, 129 tokens, 16 experts, top 2", m3vit.random_model, m3vit.samples, "tokens", drawn=True),
}


def export(name: str, path: Path, samples: int = SAMPLES) -> Path:
    """Write a model to `path`, its weights beside it; return the file of its calibration inputs."""
    shape = SHAPES[name]
    torch.manual_seed(0)
    model = shape.model().eval()
    if not shape.drawn:
        randomize(model)
    example = {key: torch.from_numpy(array) for key, array in shape.inputs(1).items()}
    wrapped = Exported(model, tuple(example), (shape.output,)).eval()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        arguments: tuple[Tensor, ...] = tuple(example.values())
        program = torch.onnx.export(
            wrapped, arguments, input_names=list(example), output_names=[shape.output], opset_version=20, dynamo=True, verbose=False
        )
    logging.disable(logging.NOTSET)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=True)
    np.savez(path.with_suffix(".npz"), **shape.inputs(samples))  # type: ignore[arg-type]
    return path.with_suffix(".npz")


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(SHAPES))
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    calib = export(args.name, args.path)
    print(f"{args.path}: {SHAPES[args.name].title}, random weights; calibration inputs in {calib}")


if __name__ == "__main__":
    main()
