"""Figures of accuracy: golden against onnxruntime on the model as its file has it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from attnc.arrays import Array
from attnc.compiler import quantize_model
from attnc.config import CompileOptions
from attnc.errors import ModelError
from attnc.golden import run_golden
from attnc.original import Original
from attnc.pipeline.compare import measure_outputs
from attnc.pipeline.quantize import VECTORS, device_integers
from attnc.pipeline.state import State
from attnc.quant.samples import Edge, count_samples, one_sample
from frontend.graphs import Builder

T, C, H, SAMPLES = 6, 32, 2, 12


def attention_model(path: Path, low: float, guard: bool) -> Path:
    """x + attention(x), with a boolean mask as input and values far from 0, so that a wrong mean of them is seen."""
    b = Builder(17)
    x, mask = b.input("x", ["n", T, C]), b.input("mask", ["n", 1, T, T], TensorProto.BOOL)

    def heads(scale: float, perm: list[int], offset: float = 0.0) -> str:
        made = b("Add", b("MatMul", x, b.rng.standard_normal((C, C)) * scale), b.rng.standard_normal(C) * 0.1 + offset)
        return str(b("Transpose", b("Reshape", made, np.array([1, T, H, C // H])), perm=perm))

    q, k, v = heads(0.2, [0, 2, 1, 3]), heads(0.2, [0, 2, 3, 1]), heads(0.2, [0, 2, 1, 3], 2.0)
    scores = b("Add", b("Mul", b("MatMul", q, k), (C // H) ** -0.5), b("Where", mask, 0.0, low))
    p = b("Softmax", scores, axis=-1)
    p = b("Where", b("IsNaN", p), 0.0, p) if guard else p
    merged = b("Reshape", b("Transpose", b("MatMul", p, v), perm=[0, 2, 1, 3]), np.array([1, T, C]))
    return b.save(path, b("Relu", b("MatMul", merged, b.rng.standard_normal((C, C)) * 0.2)))


def calibration(path: Path) -> Path:
    """Every sample but the first has a query without any key."""
    rng = np.random.default_rng(1)
    x, mask = rng.standard_normal((SAMPLES, T, C)).astype(np.float32), rng.random((SAMPLES, 1, T, T)) < 0.7
    mask[..., 0] = True
    mask[np.arange(1, SAMPLES), 0, np.arange(1, SAMPLES) % T] = False
    np.savez(path, x=x, mask=mask)
    return path


def quantized(folder: Path, low: float, guard: bool) -> State:
    path = attention_model(folder / "m.onnx", low, guard)
    return quantize_model(path, CompileOptions(calib=calibration(folder / "c.npz")))


@pytest.mark.parametrize(("low", "guard"), [(-np.inf, True), (-1e4, False), (float(np.finfo(np.float32).min), False)])
def test_queries_without_keys_count(tmp_path: Path, low: float, guard: bool) -> None:
    """The figure is what onnxruntime says, on samples most of which have such queries; and it is good."""
    state = quantized(tmp_path, low, guard)
    runner = ort.InferenceSession(str(state.path), providers=["CPUExecutionProvider"])
    samples = {name: np.concatenate([state.measured[name], state.samples[name]]) for name in state.samples}
    expected = np.concatenate([runner.run(None, {name: array[i] for name, array in samples.items()})[0] for i in range(SAMPLES)])
    found = golden(state, samples)
    assert count_samples(state.measured) == SAMPLES // 4
    for count, figure in ((SAMPLES // 4, state.output_sqnr), (SAMPLES, measure_outputs(state, samples))):
        noise = np.square(found[:count] - expected[:count]).sum()
        (db,) = figure.values()
        assert db == pytest.approx(10 * np.log10(np.square(expected[:count]).sum() / noise), abs=1e-3)
    assert db > 30 and state.undefined == 0
    (reported,) = state.widths["sqnr_db"].values()
    assert reported == round(next(iter(state.output_sqnr.values())), 2)


def golden(state: State, samples: dict[str, Array]) -> Array:
    """Golden's output, sample by sample, on a way of its own."""
    edge, rows = Edge(state.model), []
    for index, feeds in enumerate(edge.feeds(samples)):
        q = run_golden(state.graph, device_integers(state.graph, feeds, state.model))
        real = {name: state.graph.type(name).dequantize(array) for name, array in q.items()}
        sample = one_sample(samples, index)
        rows.extend(edge.finish(sample, real).values())
    return np.concatenate(rows)


def test_samples_on_which_the_model_gives_nan_are_left_out(tmp_path: Path) -> None:
    """Every one that was held out, so that only those that calibrate are left to measure on, which is said."""
    state = quantized(tmp_path, -np.inf, False)
    assert state.undefined == VECTORS - 1 and min(state.output_sqnr.values()) > 30
    assert "the model gives NaN on every sample held out" in state.doubts[-1] and state.widths["missed"] is None


def test_nan_on_every_sample_is_refused(tmp_path: Path) -> None:
    path, calib = attention_model(tmp_path / "m.onnx", -np.inf, False), calibration(tmp_path / "c.npz")
    arrays = dict(np.load(calib))
    arrays["mask"][0, 0, 2] = False
    np.savez(calib, **arrays)
    with pytest.raises(ModelError, match="onnxruntime gives NaN or infinity on every sample"):
        quantize_model(path, CompileOptions(calib=calib))


def test_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Original(attention_model(tmp_path / "m.onnx", -1e4, False))
    sample = {"x": np.ones((1, T, C), np.float32), "mask": np.ones((1, 1, T, T), bool)}
    first = original(sample)
    assert original(sample) is first and original({**sample, "x": sample["x"] + 1}) is not first
    monkeypatch.setattr("attnc.original.KEPT_BYTES", 0)
    other = {**sample, "x": sample["x"] + 2}
    assert original(other) is not original(other)
