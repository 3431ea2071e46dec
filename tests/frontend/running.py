"""Run an imported model in float and compare it with onnxruntime on the original file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from attnc.frontend import import_model
from attnc.golden import run_reference
from attnc.model import Model
from attnc.ops import verify


def session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(model: onnx.ModelProto, known: dict[str, np.ndarray]) -> None:
    """Run a host model on what is known and add its outputs."""
    runner = session(model.SerializeToString())
    names = [output.name for output in runner.get_outputs()]
    feeds = {value.name: known[value.name] for value in runner.get_inputs()}
    known.update(zip(names, runner.run(names, feeds), strict=True))


def run_model(model: Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One sample through leading, device (float) and trailing."""
    verify(model.graph)
    known = {name: np.asarray(array) for name, array in inputs.items()}
    if model.leading is not None:
        run_onnx(model.leading, known)
    feeds = {feed.value: known[feed.tensor].astype(np.float64).ravel()[feed.index][None] for feed in model.feeds}
    device = run_reference(model.graph, feeds)
    for fetch in model.fetches:
        known[fetch.tensor] = device[fetch.value][0].ravel()[fetch.index].reshape(fetch.shape).astype(np.float32)
    if model.trailing is not None:
        run_onnx(model.trailing, known)
    return {spec.name: known[spec.name] for spec in model.outputs}


def random_inputs(model: Model, seed: int = 0, high: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {}
    for spec in model.inputs:
        if spec.dtype.kind == "f":
            made[spec.name] = rng.standard_normal(spec.shape).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            made[spec.name] = np.arange(int(np.prod(spec.shape))).reshape(spec.shape) % 4 != 3
        else:
            low, limit = (0, 2) if "mask" in spec.name or "type" in spec.name else (0, high)
            made[spec.name] = rng.integers(low, limit, spec.shape).astype(spec.dtype)
            if "mask" in spec.name:
                made[spec.name].reshape(-1)[0] = 1
    return made


def check(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None, strict: bool = False, tolerance: float = 1e-4, **inputs: np.ndarray
) -> Model:
    """Import, run, compare; returns the model for more assertions."""
    model = import_model(path, dict(shapes or {}), strict)
    feeds = random_inputs(model)
    feeds.update(inputs)
    runner = session(str(path))
    names = [output.name for output in runner.get_outputs()]
    expected = dict(zip(names, runner.run(names, feeds), strict=True))
    found = run_model(model, feeds)
    for name, array in expected.items():
        assert found[name].shape == array.shape, (name, found[name].shape, array.shape)
        np.testing.assert_allclose(found[name], array, atol=tolerance * max(1.0, float(np.abs(array).max())), rtol=tolerance, err_msg=name)
    return model
