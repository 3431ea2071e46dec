"""How good a build is on data: float, golden and C++ side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attnc.arrays import Array
from attnc.codegen.project import write_json
from attnc.errors import DataError
from attnc.files import write_whole
from attnc.frontend import load_float32
from attnc.frontend.quantized import runnable
from attnc.quant.samples import FloatModel
from attnc.report import decibels, load_report
from attnc.report_tables import as_text, render
from attnc.verify.csim import compare_images
from attnc.verify.golden_backend import GoldenBackend
from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.boundary import HostGraphs
from attnc_host.csim import CsimBackend
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress
from attnc_host.samples import Samples


def evaluate(
    build: Path | Manifest,
    inputs: Mapping[str, Any],
    labels: Array | None,
    model: Path | None,
    progress: Progress | None = None,
    types: str = "native",
) -> dict[str, Any]:
    """Run golden, the C++ and, if `model` is given, the float model on all samples; add elements compared, mismatches, SQNR of
    the outputs and, with `labels` [samples], accuracy to the report; write it and return it."""
    started, progress = time.monotonic(), progress or Progress()
    manifest = manifests.load(build, edited=True)
    build = manifest.folder
    facts = load_report(build)
    host = HostGraphs(manifest)
    given = boundary.check_inputs(manifest, inputs)
    prepared = boundary.prepare(manifest, given, host)
    images = boundary.to_image(manifest, prepared.values)
    golden = GoldenBackend(manifest, progress=progress).execute(images)
    backend = CsimBackend(manifest, types, progress=progress)
    try:
        found = backend.execute(images)
    finally:
        backend.close()
    compared = compare_images(manifest, [golden], found)
    finish = (boundary.finish(manifest, boundary.from_image(manifest, image), prepared, host) for image in (golden, found))
    runs = dict(zip(("golden", "C++"), finish, strict=True))
    evaluation: dict[str, Any] = {
        "samples": compared.samples,
        "elements": compared.elements,
        "mismatches": compared.mismatches,
        "bit_exact": compared.bit_exact,
        "types": types,
    }
    if model is not None:
        evaluation["float_model"], real = run_float(model, given, progress)
        runs = {"float": real, **runs}
        evaluation["output_sqnr_db"] = {name: _sqnr(array, runs["golden"][name]) for name, array in real.items() if array.dtype.kind == "f"}
    if labels is not None:
        evaluation["accuracy_percent"] = {kind: _accuracy(outputs, labels) for kind, outputs in runs.items()}
    evaluation["seconds"] = round(time.monotonic() - started, 3)
    facts["evaluation"] = evaluation
    write_json(build / "report.json", facts)
    write_whole(build / "report.txt", as_text(render(facts)).encode())
    return facts


def run_float(model: Path, given: Samples, progress: Progress) -> tuple[str, dict[str, Array]]:
    """What runs the float model, and its outputs [samples, *shape]."""
    runner = FloatModel(runnable(load_float32(model)))
    progress.stage(f"float model: {given.count} samples")
    rows = []
    for index in range(given.count):
        progress.update(index, given.count)
        rows.append(runner({name: np.asarray(given.all(name)[index]) for name in given.arrays}))
        for name, array in rows[-1].items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"sample {index}: {runner.name} gives NaN or infinity in output {name!r}: there is nothing to compare with")
    progress.finish()
    return runner.name, {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _sqnr(real: Array, found: Array) -> float:
    real = real.astype(np.float64)
    return round(decibels(float(np.square(real).sum()), float(np.square(found - real).sum())), 2)


def _accuracy(outputs: Mapping[str, Array], labels: Array) -> float:
    """Percent of samples whose largest element of the first output is the label."""
    scores = next(iter(outputs.values()))
    scores = scores.reshape(scores.shape[0], -1)
    if labels.shape != (scores.shape[0],):
        raise DataError(f"labels: needed one per sample [{scores.shape[0]}], found shape {list(labels.shape)}")
    return round(100 * float((scores.argmax(axis=1) == labels).mean()), 3)
