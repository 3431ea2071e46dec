"""The whole way once: compile the digits transformer for a KV260, simulate the emitted C++ on every held-out image, print the numbers.

The same as

    attnc compile models/vit_digits/vit_digits.onnx --target kv260 --calib models/vit_digits/calib.npz -o build/vit_digits
    attnc eval build/vit_digits --inputs models/vit_digits/heldout.npz --model models/vit_digits/vit_digits.onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

from attnc.cli import main

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "vit_digits"


def run(*arguments: object) -> None:
    """One command line of attnc; its failure is the demo's."""
    code = main([str(argument) for argument in arguments])
    if code:
        sys.exit(code)


if __name__ == "__main__":
    model = HERE / "vit_digits.onnx"
    run("compile", model, "--target", "kv260", "--calib", HERE / "calib.npz", "-o", BUILD, "--no-check", "--quiet")
    run("eval", BUILD, "--inputs", HERE / "heldout.npz", "--model", model)
    print(f"The build is in {BUILD}: report.txt, manifest.json, hls/ (Vitis HLS project), weights/, golden/.")
