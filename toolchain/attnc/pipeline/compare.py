"""What became of a model against the model itself, as onnxruntime runs it: the imported graph in float, and golden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace

import numpy as np

from attnc.arrays import Array
from attnc.errors import ModelError
from attnc.golden import reference_values, run_golden, run_reference
from attnc.ops import operator, verify
from attnc.ops.attention_bias import EXCLUDED_BELOW
from attnc.original import Distance, Original
from attnc.pipeline.quantize import VECTORS, device_integers
from attnc.pipeline.state import State
from attnc.quant.samples import Edge, FloatModel, count_samples, one_sample

CHECKED = 2
"""Samples on which the imported graph is compared with the model."""
WITNESSES = 16
"""Samples that calibrated and are measured too: at most so many."""
FLOAT_TOLERANCE = 1e-3
Outputs = Mapping[str, Array]


def check_against_float(state: State) -> None:
    """The float meaning of the graph equals the model as onnxruntime runs it, on a few calibration samples: a model that was
    understood wrongly is refused and not compiled. Of a model that arrived quantized, its twin without rounding is run, and so is what the
    host does."""
    verify(state.graph)
    model, quantized = state.model, state.model.quantized
    float_model: FloatModel | Original = state.original
    if quantized is not None:
        float_model = FloatModel(quantized.float_model())
        leading, trailing = (None if part is None else quantized.unrounded(part) for part in (model.leading, model.trailing))
        model = replace(model, leading=leading, trailing=trailing)
    edge, state.float_model, checked = Edge(model), float_model.name, 0
    for index in _telling(state, edge):
        sample = one_sample(state.samples, index)
        feeds, expected = edge.feed(sample), float_model(sample)
        if _undefined(state, feeds, expected, f"sample {index} of the calibration inputs"):
            continue
        found = edge.finish(sample, run_reference(state.graph, feeds))
        state.float_error = max([state.float_error, *_errors(state, expected, found)])
        checked += 1
        if checked == CHECKED:
            break
    state.original.rest()
    if not checked:
        raise ModelError(f"{float_model.name} gives NaN or infinity on every sample of the calibration inputs")


def _errors(state: State, expected: Outputs, found: Outputs) -> Iterator[float]:
    """Of each output the largest error, relative to the largest value; refused if it is too large."""
    for name in (spec.name for spec in state.model.outputs):
        if expected[name].shape != found[name].shape:
            raise ModelError(f"output {name!r}: the model gives shape {expected[name].shape}, the imported graph {found[name].shape}")
        if expected[name].dtype.kind != "f":
            continue
        size = max(float(np.abs(expected[name]).max(initial=0.0)), 1e-6)
        error = float(np.abs(found[name] - expected[name]).max(initial=0.0)) / size
        if not error <= FLOAT_TOLERANCE:
            raise ModelError(
                f"output {name!r}: the imported graph differs from {state.float_model} by {error:.2g} of the largest value "
                f"(needed: at most {FLOAT_TOLERANCE}); the model was not understood correctly"
            )
        yield error


def _masks(state: State) -> list[str]:
    """Inputs of the device that leave keys out."""
    return [name for node, index, name in state.graph.uses() if name in state.graph.inputs and operator(node).excludes(node, index)]


def _telling(state: State, edge: Edge) -> list[int]:
    """All samples: the first, the one in which most queries have no key that is not masked, and the rest."""
    order, masks = list(range(count_samples(state.samples))), _masks(state)
    if masks:
        feeds = edge.feeds(state.samples)
        masked = [sum(int((feed[name].max(axis=-1) <= EXCLUDED_BELOW).sum()) for name in masks) for feed in feeds]
        order.sort(key=lambda index: (index > 0, -masked[index]))
    return order


def _undefined(state: State, feeds: Outputs, expected: Outputs, where: str) -> bool:
    """Whether the model answers with NaN because a query has no key, and nothing guards against that; any other NaN is refused."""
    bad = [name for name, array in expected.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad and not any(np.isneginf(feeds[name].max(axis=-1)).any() for name in _masks(state)):
        raise ModelError(f"output {bad[0]!r}: {state.float_model} gives NaN or infinity on {where}")
    return bool(bad)


def compare_layers(state: State) -> None:
    """Golden over the first samples held out: its outputs of the model against onnxruntime (`state.output_sqnr`), and the value of every
    node against the float graph (`state.layer_db`), which says where noise comes from and nothing of how good the model is."""
    assert state.float_graph is not None
    layers, outputs, edge = Distance(), Distance(), Edge(state.model)
    state.undefined = 0
    for index, feeds in zip(range(VECTORS), edge.feeds(state.measured), strict=False):
        values, real = reference_values(state.float_graph, feeds), dict[str, Array]()

        def compare(name: str, q: Array, values: Iterator[tuple[str, Array]] = values, real: dict[str, Array] = real) -> None:
            while name not in real:  # side by side, so that neither has all values in memory
                real.update([next(values)])
            expected = real.pop(name)
            if name not in state.graph.inputs or name in state.graph.outputs:
                layers.add(name, expected, state.graph.type(name).dequantize(q))

        golden = run_golden(state.graph, device_integers(state.graph, feeds, state.model), compare)
        sample = one_sample(state.measured, index)
        state.undefined += not _add_outputs(state, edge, sample, feeds, golden, outputs)
    if state.undefined and not outputs.signal and state.unseen is not None:
        state.unseen = None
        state.doubts.append("the model gives NaN on every sample held out: the figures are of what calibration has seen")
        return compare_layers(state)
    state.layer_db, state.output_sqnr, state.margins = layers.decibels(), outputs.decibels(), outputs.margins()
    _hear_witnesses(state, outputs)
    state.original.rest()


def _hear_witnesses(state: State, outputs: Distance) -> None:
    """Samples that calibrated can only look better than others. Where the noise of few samples decides (a token that tips over, of a model
    that ends in choices), those held out may all be without such; so where all samples together fall below the figure by more than chance
    explains, theirs is the figure, and the report says so. `outputs` are those held out."""
    state.unlucky = {}
    if state.unseen is None or state.synthetic:
        return
    edge, both = Edge(state.model), deepcopy(outputs)
    for index, feeds in zip(range(WITNESSES), edge.feeds(state.samples), strict=False):
        golden = run_golden(state.graph, device_integers(state.graph, feeds, state.model))
        _add_outputs(state, edge, one_sample(state.samples, index), feeds, golden, both)
    found, margins = both.decibels(), both.margins()
    for name, db in state.output_sqnr.items():
        if found[name] < db - state.margins[name]:
            state.unlucky[name] = db
            state.output_sqnr[name], state.margins[name] = found[name], margins[name]


def unlucky_words(state: State) -> list[str]:
    """What the report says of figures that samples held out would have made too good."""
    return [
        f"output {name!r}: the samples held out reach {db:.1f} dB, all together {state.output_sqnr[name]:.1f}: a few decide, "
        "and more of them would tell how good it is"
        for name, db in state.unlucky.items()
    ]


def measure_outputs(state: State, samples: Outputs) -> dict[str, float]:
    """SQNR in dB of every output of the model in floating point, over `samples`: golden, finished by the host, against onnxruntime on the
    model as its file has it. Whatever a report calls SQNR comes from here or from `compare_layers`."""
    outputs, edge = Distance(), Edge(state.model)
    for index, feeds in enumerate(edge.feeds(samples)):
        golden = run_golden(state.graph, device_integers(state.graph, feeds, state.model))
        _add_outputs(state, edge, one_sample(samples, index), feeds, golden, outputs)
    return outputs.decibels()


def _add_outputs(state: State, edge: Edge, sample: Outputs, feeds: Outputs, golden: Outputs, total: Distance) -> bool:
    """One more sample; False for one on which the model itself gives NaN: it is left out."""
    expected = state.original(sample)
    if _undefined(state, feeds, expected, "one of the samples"):
        return False
    found = edge.finish(sample, {name: state.graph.type(name).dequantize(q) for name, q in golden.items()})
    for name, array in expected.items():
        if array.dtype.kind == "f":
            total.add(name, array, found[name])
    return True
