"""The last step of a compilation: the emitted C++ runs in time on the build's own vectors. It must give what golden gives, and live with
both styles of pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attnc.errors import BuildError, DeadlockError, DifferenceError
from attnc.sim.command import explained
from attnc.sim.deadlock import freeing
from attnc.sim.facts import describe, facts, fifo_depths
from attnc.sim.program import load_listing
from attnc.sim.simulator import Simulator, in_styles, open_simulator
from attnc.sim.tables import STYLE_NAMES, waiting
from attnc.verify.cosim import STYLES, CosimRun
from attnc.verify.csim import CsimResult, compare_images, stored_vectors
from attnc_host import manifest as manifests
from attnc_host.boundary import Image
from attnc_host.csim import missing_tool
from attnc_host.manifest import Manifest

NOT_ASKED = "--no-check"
LARGE = 500_000
"""Estimated cycles from which on one of the vectors is enough: a larger program runs long."""


@dataclass(frozen=True)
class Other:
    """Another run of the same program: memory images of its inputs and, where they are looked at, its outputs; perhaps with other
    weights; of a decoder the integers that start it."""

    name: str
    inputs: Image
    outputs: Image | None = None
    weights: Path | None = None
    setting: Sequence[int] | None = None


@dataclass(frozen=True)
class Check:
    """What the report says: `samples` and `elements` that are equal, or `unchecked`, why nothing was compared; and what the first sample
    took in time."""

    report: dict[str, Any]
    simulation: dict[str, Any] | None = None
    later: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Of a decoder: cycles of its entries further on in a sequence, by style of pipelines."""
    others: dict[str, dict[str, int]] = field(default_factory=dict)
    """Cycles of other runs, by their name and by style of pipelines."""


def check_build(folder: Path, wanted: bool, depths_given: bool = False, others: Sequence[Other] = ()) -> Check:
    """Raises `DifferenceError` where an element differs, `DeadlockError` where processes wait for each other for ever (at FIFOs of the
    usual depths, or of those that a schedule gave), `BuildError` where the C++ does not compile or stops. The simulator is made for this
    machine, and does not stay in the build."""
    tool = missing_tool()
    if not wanted or tool is not None:
        return Check({"unchecked": f"{tool!r} is not installed or not on PATH" if wanted else NOT_ASKED})
    manifest, listing = manifests.load(folder, edited=True), load_listing(folder)
    try:
        with open_simulator(folder, listing.timing(), listing) as simulator:
            runs = in_styles(simulator.binned)
            _refuse_deadlocks(simulator, runs, depths_given)
            result = _compare(simulator, manifest)
            later = _later(simulator, manifest, depths_given)
            cycles = {other.name: _other(simulator, manifest, other, depths_given) for other in others}
    except BuildError as error:
        raise BuildError(f"{_refusal('cannot be simulated')}: {error}") from error
    finally:
        for path in (folder / "hls").glob("cosim_*"):
            path.unlink()
    if not result.bit_exact:
        counts = f"{result.mismatches:,} of {result.elements:,} elements"
        raise DifferenceError(f"{_refusal(f'differs from golden in {counts}')}; the first: {result.difference}")
    for run in runs:
        if not run.bit_exact:
            raise DifferenceError(f"{_refusal(f'differs from golden with {STYLE_NAMES[run.style]} pipelines')}")
    return Check({"samples": result.samples, "elements": result.elements}, facts(listing, simulator.timing, runs, {}), later, cycles)


def _later(simulator: Simulator, manifest: Manifest, depths_given: bool) -> dict[str, list[dict[str, Any]]]:
    """Of a decoder: cycles of its entries in the middle and at the end of a sequence, by style."""
    decoder = manifest.decoder
    if decoder is None:
        return {}
    image = np.zeros(manifest.input_bytes, np.uint8)
    found: dict[str, list[dict[str, Any]]] = {style: [] for style in STYLES}
    for name, entry in decoder.entries.items():
        for position in {decoder.begins(name, place) for place in (decoder.length // 2, decoder.length - 1)}:
            setting = decoder.start(entry, position, 0, position)
            runs = in_styles(partial(simulator.entry, image=image, setting=[*setting.values()]))
            _refuse_deadlocks(simulator, runs, depths_given)
            for run in runs:
                found[run.style].append({"entry": name, "position": position, "cycles": run.cycles})
    return found


def _other(simulator: Simulator, manifest: Manifest, other: Other, depths_given: bool) -> dict[str, int]:
    """Cycles by style."""
    with simulator.with_weights(other.weights) if other.weights else nullcontext(simulator) as changed:
        if other.setting is not None:
            runs = in_styles(partial(changed.entry, image=other.inputs, setting=other.setting))
            _refuse_deadlocks(simulator, runs, depths_given)
            return {run.style: run.cycles for run in runs}
        found = in_styles(partial(changed.outputs, other.inputs))
    _refuse_deadlocks(simulator, [run for _, run in found], depths_given)
    assert other.outputs is not None
    for outputs, run in found:
        result = compare_images(manifest, [other.outputs[None]], outputs[None])
        if not result.bit_exact:
            where = f"with {STYLE_NAMES[run.style]} pipelines and {other.name}"
            raise DifferenceError(f"{_refusal(f'differs from golden {where}')}; the first: {result.difference}")
    return {run.style: run.cycles for _, run in found}


def _compare(simulator: Simulator, manifest: Manifest) -> CsimResult:
    """Every element of the vectors, or of the first; of a decoder, of all runs."""
    images, expected = stored_vectors(manifest)
    assert expected is not None
    if manifest.decoder is not None:  # runs follow each other
        return compare_images(manifest, [expected], simulator.outputs(images)[0].reshape(expected.shape))
    count = 1 if simulator.listing.estimate > LARGE else len(images)
    found = [simulator.outputs(image)[0] for image in images[:count]]
    return compare_images(manifest, [expected[:count]], np.stack(found))


def _refuse_deadlocks(simulator: Simulator, runs: Sequence[CosimRun], depths_given: bool) -> None:
    stuck = next((run for run in runs if run.deadlock is not None), None)
    if stuck is None:
        return
    found = describe(simulator.listing, stuck, explained(simulator, stuck))
    least = freeing(lambda depths: in_styles(lambda style: simulator.run(style, depths)), runs)
    waits = [wait for wait in found["waits"] if wait["process"] in found["circle"]] or found["waits"]
    depths = ", ".join(f"{name} {pair['depth']} -> {pair['least']}" for name, pair in fifo_depths(least, runs).items())
    freed = f"least depths that free it: {depths}" if depths else "no depths of FIFOs free it"
    what = (
        f"stands still from cycle {found['cycle']:,} on with {STYLE_NAMES[stuck.style]} pipelines, in {found['instruction'] or 'its start'}"
    )
    text = "; ".join(waiting(wait) for wait in waits)
    why = "because of the depths of FIFOs that the schedule gives" if depths_given else "which is a bug in attnc"
    raise DeadlockError(f"{_refusal(what, why)}: {text}; {freed}")


def _refusal(what: str, why: str = "which is a bug in attnc") -> str:
    return f"the emitted C++ {what}, {why}, so no build was written ({NOT_ASKED} writes it as it is)"
