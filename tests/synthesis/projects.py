"""Projects that are emitted for the checks: models quantized as `attnc compile` does it, with given designs, so none is searched for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from attention_cases import Case, build
from attnc.codegen.render import write_sources
from attnc.compiler import quantize_model
from attnc.config import CompileOptions
from attnc.ir import Graph
from attnc.kernels.design import Design
from attnc.schedule.program import build_program

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


def attention(passes: int) -> Graph:
    """Attention with biases as a table, for lanes of keys where it takes one pass; as channels; capped."""
    lanes = {"passes": 1, "key_step": 16, "kv_lanes": 2} if passes == 1 else {"passes": 2}
    return build([Case(9, 40, 2, 2, bias_heads=2, bias_rows=9, attrs=lanes), Case(9, 40, 2, 2, attrs={**lanes, "softcap": 5.0})])


PROJECTS: dict[str, tuple[Callable[[], Graph], Design]] = {
    "digits": (lambda: quantized(DIGITS), Design.of(16, 16, 17, 16, rows_at_once=3, weight_ports=2)),
    "digits-lookup": (lambda: quantized(DIGITS, weights="ternary", engine="lookup"), Design.of(16, 16, 17, 16, tables=32, columns=16)),
    "digits-per-token": (lambda: quantized(DIGITS, activations="dynamic"), Design.of(8, 8, 17, 16, rows_at_once=9, beat=2, weight_ports=2)),
    "digits-parallel": (lambda: quantized(DIGITS), Design.of(8, 16, 8, 4, beat=2, parallel=2, copies=2)),
    "bert": (lambda: family("bert"), Design.of(16, 32, 16, 4)),
    "decoder": (lambda: family("llama"), Design.of(8, 16, 16, 4, beat=2)),
    "one-pass": (lambda: attention(1), Design.of(16, 16, 64, 4)),
}
"""Graph and design."""


def emit(name: str, folder: Path) -> Path:
    """Write the sources of a project, or of a family of the zoo, into a folder, and return it."""
    graph, design = PROJECTS.get(name) or (lambda: family(name), Design.of(8, 16, 16, 4))
    write_sources(build_program(graph(), design, lambda packed: None), folder, part="part", clock_mhz=200)
    return folder
