"""Projects that are emitted for the checks: models quantized as `attnc compile` does it, with given designs, so none is searched for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from attnc.codegen.render import write_sources
from attnc.compiler import quantize_model
from attnc.config import CompileOptions
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule.program import build_program
from decoding.decoders import write_decoder
from decoding.test_decoding import SLOPES, planned
from kernels.test_networks import GRAPHS, union
from mixture_cases import feeds_of, mixture_graph
from mixture_cases import mixture as mixture_of
from mixture_cases import quantized as quantized_mixture
from ops.test_mean_rows import mean_graph

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "vit_digits" / "vit_digits.onnx"


@cache
def quantized(path: Path, **options: Any) -> Graph:
    """The graph of a model."""
    return quantize_model(path, CompileOptions(**options)).graph


@cache
def family(name: str) -> Graph:
    """The graph of a transformer family of the zoo."""
    from models.zoo import export

    with tempfile.TemporaryDirectory(prefix="attnc-test-") as folder:
        export(name, "torchscript", Path(folder) / f"{name}.onnx")
        return quantized(Path(folder) / f"{name}.onnx")


def mixture() -> Graph:
    """One whose experts are chosen among groups."""
    router = {
        "k": 2,
        "score": "sigmoid",
        "selection_bias": np.arange(8),
        "renormalise": True,
        "groups": 4,
        "kept_groups": 2,
        "group_best": 2,
    }
    graph = mixture_graph(mixture_of(8, 32, 48, **router), 20, 32)
    return quantized_mixture(graph, feeds_of(graph, 2))


@cache
def decoding(**options: Any) -> Graph:
    """The graph of a small decoder with caches, one of them a ring."""
    with tempfile.TemporaryDirectory(prefix="attnc-test-") as folder:
        return planned(write_decoder(Path(folder) / "decoder.onnx", windows=(3,), slopes=SLOPES), **options).model.graph


MODELS: dict[str, tuple[Callable[[], Graph], Design]] = {
    "digits": (lambda: quantized(DIGITS), Design.of(16, 16, 17, 16, rows_at_once=3, weight_ports=2)),
    "digits-lookup": (lambda: quantized(DIGITS, weights="ternary", engine="lookup"), Design.of(16, 16, 17, 16, tables=32, columns=16)),
    "digits-per-token": (lambda: quantized(DIGITS, activations="dynamic"), Design.of(8, 8, 17, 16, rows_at_once=9, beat=2, weight_ports=2)),
    "digits-parallel": (lambda: quantized(DIGITS), Design.of(8, 16, 8, 4, beat=2, parallel=2, copies=2)),
    "bert": (lambda: family("bert"), Design.of(16, 32, 16, 4)),
    "decoder": (lambda: family("llama"), Design.of(8, 16, 16, 4, beat=2)),
    "decoding": (decoding, Design.of(4, 16, 16, 4, beat=2, keys=4)),
    "decoding-int4": (lambda: decoding(length=120, cache="int4"), Design.of(4, 16, 16, 4, beat=2, keys=4)),
}
"""Graph and design."""
KERNELS = {
    "attention": (GRAPHS["attention"][0], Design.of(8, 8, 16, 8)),
    "low-bit": GRAPHS["low_bit"],
    "mixture": (mixture, Design.of(8, 16, 8, 4, beat=2)),
    "others": (lambda: union(GRAPHS["others"][0](), mean_graph()), GRAPHS["others"][1]),
}
"""Of nodes side by side: with the models they have every loop that there is."""
PROJECTS = MODELS | KERNELS


def emit(name: str, folder: Path) -> Path:
    """Write the sources of a project, or of a family of the zoo, into a folder, and return it."""
    graph, design = PROJECTS.get(name) or (lambda: family(name), Design.of(8, 16, 16, 4))
    write_sources(build_program(graph(), design, lambda packed: None), folder, part="part", clock_mhz=200)
    return folder
