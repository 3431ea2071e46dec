"""attnc beside hls4ml on the one attention path that hls4ml has: 16 tokens, 32 wide, 2 heads, int8.

    pip install -e '.[peers]'
    python bench/peers.py [--runs 3] [--json]

Both tools get a multi-head self-attention with random weights (query, key, value and output projections, softmax). hls4ml takes it as an
HGQ2 layer of Keras (its bit-exact path, backend Vitis, io_parallel), attnc as ONNX. `convert_s` is from the model to emitted C++ (of
attnc a process of its own, calibration included), `build_s` the C++ compiler with each tool's own flags, `mmac_s` the multiply-adds of
the layer (not of padding) per second of wall time in one simulating process, samples in and out included. `exact` says whether the C++
gives what the tool's own reference model gives: Keras there, golden here. Runs of both take turns. Without its packages hls4ml's row
says so. The table is stored in bench/results/peers.json and compared with the one stored last.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import compile_once, last, machine, present, seconds, store

from attnc.verify.csim import compare_build
from attnc_host import Accelerator

TOKENS, WIDTH, HEADS = 16, 32, 2
SAMPLES = 2048
MULTIPLY_ADDS = 4 * TOKENS * WIDTH**2 + 2 * TOKENS**2 * WIDTH
PACKAGES = ("hls4ml", "hgq2", "keras")
MISSING = "not installed: pip install -e '.[peers]'"
FIGURES = ("convert_s", "build_s", "mmac_s")
Run = dict[str, float | bool]


class Attention(nn.Module):
    """Multi-head self-attention of [B, T, C], as a torch user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, C] to [B, T, C]."""
        query, key, value = (part(x).view(-1, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
        return self.output((scores @ value).transpose(1, 2).reshape(-1, TOKENS, WIDTH))


def samples(count: int, seed: int) -> np.ndarray:
    """Inputs [count, T, C]."""
    return np.random.default_rng(seed).normal(size=(count, TOKENS, WIDTH)).astype(np.float32)


def run_attnc(folder: Path) -> Run:
    """Compile, build, simulate; compare with golden."""
    torch.manual_seed(0)
    model, calib, build = folder / "attention.onnx", folder / "calib.npz", folder / "build"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Attention().eval(), (torch.zeros(1, TOKENS, WIDTH),), str(model), input_names=["x"], dynamo=False)
    np.savez(calib, x=samples(64, 1))
    convert = compile_once(model, calib, build).seconds
    built = seconds(lambda: subprocess.run(["make", "-s", "-C", build / "hls", "build"], check=True))
    inputs = {"x": samples(SAMPLES, 2)}
    with Accelerator.open(build, backend="csim", processes=1) as accelerator:
        spent = seconds(lambda: accelerator.run(inputs))
    exact = compare_build(build, {"x": inputs["x"][:16]}).bit_exact
    return {"convert_s": convert, "build_s": built, "mmac_s": MULTIPLY_ADDS * SAMPLES / spent / 1e6, "exact": exact}


def run_hls4ml(folder: Path) -> Run:
    """Convert, build, simulate; compare with the Keras model."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    from hgq.config import QuantizerConfigScope
    from hgq.layers import QMultiHeadAttention
    from hgq.utils import trace_minmax
    from hls4ml.converters import convert_from_keras_model

    keras.utils.set_random_seed(0)
    weights = QuantizerConfigScope(place="weight", default_q_type="kbi", b0=8, i0=0, overflow_mode="SAT_SYM", round_mode="RND")
    with QuantizerConfigScope(default_q_type="kbi", b0=8, i0=3, overflow_mode="SAT", round_mode="RND"), weights:
        x = keras.Input((TOKENS, WIDTH))
        model = keras.Model(x, QMultiHeadAttention(num_heads=HEADS, key_dim=WIDTH // HEADS)(x, x, x))
    trace_minmax(model, samples(64, 1), verbose=False)
    start = time.perf_counter()
    converted = convert_from_keras_model(model, output_dir=str(folder / "hls4ml"), backend="Vitis", io_type="io_parallel")
    converted.write()
    convert = time.perf_counter() - start
    built = seconds(converted.compile)  # writes once more: milliseconds
    inputs = samples(SAMPLES, 2)
    start = time.perf_counter()
    found = converted.predict(inputs)
    spent = time.perf_counter() - start
    exact = np.array_equal(found[:16].reshape(-1, TOKENS, WIDTH), model.predict(inputs[:16], verbose=0))
    return {"convert_s": convert, "build_s": built, "mmac_s": MULTIPLY_ADDS * SAMPLES / spent / 1e6, "exact": exact}


TOOLS = {"attnc": run_attnc, "hls4ml": run_hls4ml}


def versions() -> dict[str, str] | None:
    """Of the packages that hls4ml's path needs; None if one is absent."""
    try:
        return {name: importlib.metadata.version(name) for name in PACKAGES}
    except importlib.metadata.PackageNotFoundError:
        return None


def summary(rows: list[Run]) -> dict[str, Any]:
    """Median and runs of every figure; exact if all were."""
    figures = {name: [round(float(row[name]), 3) for row in rows] for name in FIGURES}
    medians = {name: {"median": statistics.median(values), "runs": values} for name, values in figures.items()}
    return {**medians, "exact": all(row["exact"] for row in rows)}


def measure(runs: int) -> dict[str, Any]:
    """Per tool the median of every figure and all runs, or a note."""
    found: dict[str, list[Run]] = {}
    peer = versions()
    for _ in range(runs):
        for tool in [name for name in TOOLS if name == "attnc" or peer]:
            # hls4ml prints as it goes; stdout is for the table.
            with tempfile.TemporaryDirectory(prefix="attnc-bench-") as folder, contextlib.redirect_stdout(sys.stderr):
                found.setdefault(tool, []).append(TOOLS[tool](Path(folder)))
    results = {tool: summary(rows) for tool, rows in found.items()}
    results["hls4ml"] = {**results["hls4ml"], "versions": peer} if peer else {"note": MISSING}
    return results


def show(results: dict[str, Any], before: dict[str, Any]) -> None:
    """A line per tool, with the rate of the last time."""
    print(f"attention, {TOKENS} tokens x {WIDTH} wide, {HEADS} heads: {MULTIPLY_ADDS:,} multiply-adds")
    print(f"{'':10}{'to C++, s':>11}{'C++, s':>9}{'MMAC/s':>10}{'last':>10}  exact")
    for tool, found in results.items():
        if "note" in found:
            print(f"{tool:10}  {found['note']}")
            continue
        old = f"{before[tool]['mmac_s']['median']:10.1f}" if "mmac_s" in before.get(tool, {}) else f"{'-':>10}"
        numbers = "".join(f"{found[name]['median']:{width}}" for name, width in zip(FIGURES, ("11.2f", "9.2f", "10.1f"), strict=True))
        names = ", ".join(f"{name} {version}" for name, version in found.get("versions", {}).items())
        print(f"{tool:10}{numbers}{old}  {'yes' if found['exact'] else 'NO'}  {names}")


def main() -> None:
    """Measure, print, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    facts, before = machine(), last("peers")
    results = measure(max(1, args.runs))
    if "note" not in results["hls4ml"] or not before:
        store("peers", facts, results)
    present(facts, results, args.json, lambda: show(results, before))


if __name__ == "__main__":
    main()
