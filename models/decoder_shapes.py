"""Decoders of published sizes with random weights: for schedules, cycles and estimates, where what matters are shapes.

    python models/decoder_shapes.py bitnet_073b bitnet.onnx --layers 1

Writes the model (weights beside it, drawn as they are written), bitnet.npz with random tokens, and bitnet.yaml with the formats of its
weights. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models import hub_export
from models.hub_random import CONFIGS, RandomCheckpoint

TOKENS, SAMPLES = 64, 4
LENGTH = 2048
"""Of the longest sequence that a model can be compiled for."""
HEAD = "*head*"
"""Pattern of the name of the last product."""


@dataclass(frozen=True)
class DecoderShape:
    """The name of a model among `CONFIGS`, what figures call it, and the format of the weights of its layers."""

    config: str
    title: str
    weights: str
    group: int = 0

    @property
    def layers(self) -> int:
        """Of the whole model."""
        return int(CONFIGS[self.config]["num_hidden_layers"])


SHAPES = {
    "bitnet_073b": DecoderShape("BitNet-0.73B", "BitNet 0.73B", "ternary"),
    "bitnet_2b4t": DecoderShape("BitNet-b1.58-2B-4T", "BitNet-b1.58-2B-4T", "ternary"),
    "qwen3_06b": DecoderShape("Qwen3-0.6B", "Qwen3-0.6B", "int4", 32),
}
"""BitNet 0.73B as TeLLMe v2 runs it (arXiv 2510.15926), BitNet-b1.58-2B-4T (arXiv 2504.12285), Qwen3-0.6B (arXiv 2505.09388)."""


def export(name: str, path: Path, layers: int, head: str = "int8") -> tuple[Path, Path]:
    """Write a decoder of so many layers to `path`, its weights beside it; return the files of its calibration inputs and of its formats,
    in which the head has weights of format `head`."""
    shape = SHAPES[name]
    config = CONFIGS[shape.config]
    hub_export.export(RandomCheckpoint(name, config), path, LENGTH, layers)
    calib, formats = path.with_suffix(".npz"), path.with_suffix(".yaml")
    np.savez(calib, input_ids=np.random.default_rng(0).integers(0, config["vocab_size"], (SAMPLES, TOKENS)))
    # Random weights gain nothing from a quantizer that takes its time.
    lines = [f"weights: {shape.weights}", f"group_size: {shape.group}", "activations: dynamic", "engine: dsp"]
    lines += ["quantizer: absmean" if shape.weights == "ternary" else "quantizer: minmax"]
    quantizer = "absmean" if head == "ternary" else "minmax"
    lines += ["layers:", f'  - match: "{HEAD}"', f"    weights: {head}", "    group_size: 0", f"    quantizer: {quantizer}"]
    formats.write_text("\n".join(lines) + "\n")
    return calib, formats


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
