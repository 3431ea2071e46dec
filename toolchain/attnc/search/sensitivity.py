"""What a format of a layer costs in accuracy: an estimate, good enough to order what is then measured.

error   relative power of the layer's output error, ||X (W - Q)^T||^2 / ||X W^T||^2 with X of the held-out samples (on the samples that a
        quantizer saw, those that use covariances look better than they are).
gain    what a unit of it does to the model: one layer changes its format, and golden's outputs move by ||y' - y||^2 / ||y||^2. Errors of
        two formats are taken for independent, so gain = movement / (error + error').
damage  gain * error; the damages of layers add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from attnc.arrays import Array
from attnc.blas import one_thread
from attnc.passes.weights import met, quantized
from attnc.pipeline.quantize import input_grams
from attnc.quant.weight_config import LayerSettings
from attnc.quant.weights import output_error
from attnc.search.budget import Yardstick
from attnc.search.layers import Assignment, Layers, Samples, assignment_key
from attnc.search.state import Store
from attnc_host.progress import Progress

GRAM_BYTES = 1 << 30
"""Memory for the covariances of the inputs of layers that are quantized together; each such batch is a walk through the float graph."""
LEAST_GAIN = 1e-12
"""Of a layer that does not matter: its formats still differ."""
LARGEST_ERROR = 1e6
"""Of an output that is zero, errors would be infinite."""


def make_weights(layers: Layers, store: Store, heldout: Mapping[str, Array], progress: Progress) -> None:
    """Quantize every layer in every format that `store` lacks, and measure its error."""
    state, done = layers.state, 0
    assert state.float_graph is not None
    progress.stage("search: quantizing every layer in every format")
    total = sum(map(len, layers.choices.values()))
    for batch in _batches(layers):
        missing = {name: [s for s in layers.choices[name] if store.error(name, s) is None] for name in batch}
        done += sum(len(layers.choices[name]) - len(left) for name, left in missing.items())
        progress.update(done, total)
        inputs = {layers.original(name).inputs[0] for name, left in missing.items() if left}
        if not inputs:
            continue
        seen = input_grams(state, state.float_graph, inputs, state.samples)
        unseen = input_grams(state, state.float_graph, inputs, heldout)
        for name, left in missing.items():
            node = layers.original(name)
            for settings in left:
                weight, gram = met(state.graph, node, seen[node.inputs[0]])
                found = quantized(node, weight, settings.format, settings.quantizer, gram)
                with one_thread():
                    error = output_error(weight, found, met(state.graph, node, unseen[node.inputs[0]])[1])
                store.put_weight(name, settings, found, min(error**2, LARGEST_ERROR))
                done += 1
                progress.update(done, total)
    progress.finish()


def _batches(layers: Layers) -> Iterator[list[str]]:
    """Layers in order, so many that the two grams of their inputs take GRAM_BYTES; readers of one input stay together."""
    readers: dict[str, list[str]] = {}
    for name in layers.choices:
        readers.setdefault(layers.original(name).inputs[0], []).append(name)
    batch: list[str] = []
    held = 0
    for names in readers.values():
        size = 2 * 8 * layers.shapes[names[0]][1] ** 2
        if batch and held + size > GRAM_BYTES:
            yield batch
            batch, held = [], 0
        batch, held = [*batch, *names], held + size
    if batch:
        yield batch


def measure_gains(
    layers: Layers,
    store: Store,
    around: Assignment,
    change: Mapping[str, LayerSettings],
    samples: Samples,
    yardstick: Yardstick,
    progress: Progress,
) -> dict[str, float]:
    """Gain of every layer in `change`, which takes it from its format in `around` to another, alone. `yardstick` belongs to `samples`."""
    gains: dict[str, float] = {}
    base: list[list[Array]] = []
    label = assignment_key(around)
    progress.stage(f"search: how much each of {len(change)} layers matters")
    for done, (name, settings) in enumerate(change.items()):
        progress.update(done, len(change))
        key = f"{label} {name}|{settings.label}"
        known = store.gain(key)
        if known is None:
            base = base or _vectors(layers, around, samples, yardstick)
            moved = _vectors(layers, {**around, name: settings}, samples, yardstick)
            errors = [store.error(name, s) or 0.0 for s in (settings, around[name])]
            known = max(_movement(base, moved) / max(sum(errors), 1e-30), LEAST_GAIN)
            store.put_gain(key, known)
        gains[name] = known
    progress.finish()
    return gains


def _vectors(layers: Layers, assignment: Assignment, samples: Samples, yardstick: Yardstick) -> list[list[Array]]:
    return [yardstick.vectors(index, outputs) for index, outputs in enumerate(layers.run(assignment, samples))]


def _movement(base: list[list[Array]], moved: list[list[Array]]) -> float:
    """||y' - y||^2 / ||y||^2 over all samples; of several outputs the largest."""
    found = []
    for before, after in zip(zip(*base, strict=True), zip(*moved, strict=True), strict=True):
        power = sum(float(np.square(y).sum()) for y in before)
        noise = sum(float(np.square(z - y).sum()) for y, z in zip(before, after, strict=True))
        found.append(noise / power if power else float(noise > 0))
    return max(found)
