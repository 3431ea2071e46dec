"""Compile every family of `families.py`, simulate the C++, compare it with golden and with float, print the table.

    python -m models.zoo                      all families with every exporter
    python -m models.zoo bert swin --json     some of them

A compilation ends in simulated time: in both styles of pipelines all elements equal golden and no process waits for ever, with the depths
of FIFOs that are emitted, or there is no build. Each family runs in a process of its own with a time limit. Exit code 1 if any fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from models import processes

from attnc.codegen.folder import SIMULATION
from attnc.verify.cosim import STYLES

ROOT = Path(__file__).resolve().parents[1]
LEAST_VARYING = 0.01
SEEN, UNSEEN = 16, 8
"""Samples to calibrate with, and those that the accuracy in the table is measured on."""
TARGET, TARGET_DB = "zcu104", 30.0
NEAR, STAGE_NEAR, LEAST_SHARE = 0.1, 0.2, 0.02
"""How far estimate and simulation may be apart: of a whole, and of a stage with more than so much of the cycles."""
SHOWN = 3
"""Reasons in the table for a family below TARGET_DB; the report of its build has more."""
EXPORTERS = ("dynamo", "torchscript")
OPSETS = {"dynamo": 20, "torchscript": 17}


def export(name: str, exporter: str, path: Path, opset: int = 0, dynamic: bool = False, eager: bool = False) -> None:
    """Write a family as ONNX, weights inside, and seeded inputs beside it. With `dynamic`, batch and tokens of whole numbers are symbols;
    with `eager`, attention is spelled out by the model, as it was before torch had an operator for it."""
    import numpy as np
    import torch
    from models.families import FAMILIES
    from models.family import Exported, randomize, samples, settle

    family = FAMILIES[name]
    torch.manual_seed(0)
    model = family.model().eval()
    randomize(model)
    if eager:
        model.set_attn_implementation("eager")  # type: ignore[operator]
    inputs = (family.traced_inputs if exporter == "torchscript" and family.traced_inputs else family.inputs)()
    settle(model, inputs)
    wrapped = Exported(model, tuple(inputs), family.outputs).eval()
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)  # nn.TransformerEncoder would become one operator that ONNX does not have
    options: dict[str, Any] = {
        "input_names": list(inputs),
        "output_names": list(family.outputs),
        "opset_version": opset or OPSETS[exporter],
    }
    symbols = {key: {0: "batch", 1: "tokens"} for key, array in inputs.items() if dynamic and array.ndim == 2}
    if exporter == "dynamo":
        options |= {"dynamo": True, "verbose": False, "external_data": False}
        options |= {"dynamic_shapes": {"tensors": tuple(symbols.get(key) for key in inputs)}} if symbols else {}
    else:
        options |= {"dynamo": False, "dynamic_axes": symbols}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(wrapped, tuple(inputs.values()), str(path), **options)
    np.savez(path.with_suffix(".npz"), **samples(family, list(inputs), SEEN))  # type: ignore[arg-type]
    np.savez(path.with_suffix(".unseen.npz"), **samples(family, list(inputs), UNSEEN, seed=2))  # type: ignore[arg-type]


def measure(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """Export, compile with the check in time, measure: one row of the table."""
    from attnc.compiler import compile_model
    from attnc.config import CompileOptions
    from attnc.report import load_report
    from attnc.report_tables import causes

    path, build = folder / f"{name}_{exporter}.onnx", folder / f"{name}_{exporter}"
    export(name, exporter, path)
    compile_model(path, CompileOptions(output=build, target=TARGET, calib=path.with_suffix(".npz"), force=True))
    report = load_report(build)
    simulated = {style: report["simulation"][style]["cycles"] for style in STYLES}
    estimate = report["estimate"]["cycles"]
    placement = Counter(report["placement"])
    sqnr, varying = accuracy(path, build)
    widths = report["activation_bits"]
    return {
        "device": placement["device"],
        "host": placement["host"],
        "folded": placement["folded"],
        "operators": report["operators"],
        "elements": report["check"]["elements"],
        "sqnr_db": sqnr,
        "heldout_db": min(widths["sqnr_db"].values()),
        "promised_db": min(db - widths["margin_db"][output] for output, db in widths["sqnr_db"].items()),
        "varying": varying,
        "wide": len(widths["wide"]),
        "binding": widths["binding"],
        "causes": causes(widths),
        "estimate": estimate,
        "simulated": simulated,
        "ratio": round(max(simulated.values()) / estimate, 3),
        "far": far_stages(json.loads((build / SIMULATION).read_text())),
    }


def far_stages(simulation: dict[str, Any]) -> dict[str, float]:
    """Stages whose simulated cycles are too far from their estimates, by their last nodes: the ratio that is furthest."""
    found: dict[str, float] = {}
    for run in simulation["styles"].values():
        for stage in run["stages"]:
            ratio, name = stage["cycles"] / stage["estimate_cycles"], stage["nodes"][-1]
            if stage["cycles"] > LEAST_SHARE * run["cycles"] and abs(ratio - 1) > max(STAGE_NEAR, abs(found.get(name, 1) - 1)):
                found[name] = round(ratio, 2)
    return found


def accuracy(path: Path, build: Path, right: Path | None = None, golden: bool = True) -> tuple[float, float]:
    """SQNR in dB of what golden gives for the outputs of the model, over samples that calibration never saw; and the share of the energy
    of the float outputs that varies from sample to sample: where there is none, equal outputs prove nothing. `right`: the model that is
    right, if not that at `path`. Without `golden`, what onnxruntime gives for `path` is measured instead."""
    import numpy as np

    from attnc.frontend.load import load_model
    from attnc.npz import load_npz
    from attnc.quant.samples import FloatModel
    from attnc.report import decibels
    from attnc_host import Accelerator
    from attnc_host.samples import stack

    given = load_npz(path.with_suffix(".unseen.npz"))
    with Accelerator.open(build, "golden") as accelerator:
        given = {spec.name: given[spec.name] for spec in accelerator.manifest.inputs}  # another export may take fewer
        inputs = stack(given, accelerator.manifest.inputs)
        found = stack(accelerator.run(given), accelerator.manifest.outputs)
    model, own = FloatModel(load_model(right or path)), None if golden else FloatModel(load_model(path))
    signal = noise = 0.0
    outputs: dict[str, list[Any]] = {key: [] for key in found.arrays}
    for index in range(inputs.count):
        sample = {key: inputs.all(key)[index] for key in inputs.arrays}
        made = {key: array[index] for key, array in found.arrays.items()} if own is None else own(sample)
        for key, array in model(sample).items():
            signal += float(np.square(array, dtype=np.float64).sum())
            noise += float(np.square(array.astype(np.float64) - made[key]).sum())
            outputs[key].append(array.astype(np.float64))
    varying = sum(float(np.square(np.stack(arrays) - np.mean(arrays, axis=0)).sum()) for arrays in outputs.values())
    return round(decibels(signal, noise), 1), round(varying / max(signal, 1e-300), 4)


def run_one(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """A family in a process of its own."""
    return {"family": name, "exporter": exporter} | processes.run(measure, name, exporter, folder)


def failed(row: dict[str, Any]) -> bool:
    """Whether a row is no success: an error (as a difference or a deadlock is), or outputs that hardly depend on the inputs."""
    return "error" in row or row["varying"] < LEAST_VARYING


def remark(row: dict[str, Any]) -> str:
    """Why a row misses what it should reach: by chance where the samples that the widths were chosen on reach it, else by its causes."""
    found = "" if row["varying"] >= LEAST_VARYING else f"outputs do not depend on the inputs ({row['varying']}) "
    far = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["far"].items())
    found += f"stages far from their estimates: {far} " if far else ""
    found += f"{row['ratio']:.2f} of the estimate " if abs(row["ratio"] - 1) > NEAR else ""
    if row["sqnr_db"] >= TARGET_DB:
        return found
    if row["heldout_db"] >= TARGET_DB:
        return f"{found}{row['heldout_db']:.1f} dB held out, {row['promised_db']:.1f} less what chance may hide"
    worst = (f"{entry['node']} ({entry['why']}, {entry['percent']:.0f} %)" for entry in row["binding"][:SHOWN])
    return f"{found}noise by cause: {row['causes']}; worst nodes: {'; '.join(worst)}"


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Transformer families: C++ in time against golden, golden against float; cycles simulated beside estimated")
    for title, justify in (
        ("family", "left"), ("exporter", "left"), ("device", "right"), ("host", "right"), ("elements", "right"),
        ("SQNR dB", "right"), ("16 bits", "right"), ("estimate", "right"), *((style, "right") for style in STYLES),
        ("of estimate", "right"), ("remark", "left"),
    ):  # fmt: skip
        table.add_column(title, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        if "error" in row:
            table.add_row(row["family"], row["exporter"], *[""] * 9, f"failed: {row['error']}", style="red")
            continue
        cycles = [row["estimate"], *row["simulated"].values(), f"{row['ratio']:.2f}"]
        cells = [row["device"], row["host"], row["elements"], row["sqnr_db"], row["wide"], *cycles]
        table.add_row(row["family"], row["exporter"], *map(str, cells), remark(row), style="red" if failed(row) else None)
    Console(width=None if sys.stdout.isatty() else 190).print(table)
    print(f"{sum(not failed(row) for row in rows)} of {len(rows)} compile, agree bit for bit and never stand still")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", help="all by default")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="both by default")
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--folder", type=Path, help="keep models and build folders here")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args(argv)
    from models.families import FAMILIES

    names = args.families or list(FAMILIES)
    if unknown := [name for name in names if name not in FAMILIES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    jobs = [(n, exporter) for n in names for exporter in FAMILIES[n].exporters if exporter in (args.exporter or EXPORTERS)]
    with tempfile.TemporaryDirectory(prefix="attnc-zoo-") as temporary, ThreadPoolExecutor(args.workers) as pool:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with processes.making(Path(temporary) / "compiled"):
            made = list(pool.map(lambda job: _noted(*job, folder), jobs))
    if args.json:
        print(json.dumps(made, indent=1))
    else:
        show(made)
    return int(any(failed(row) for row in made))


def _noted(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    row = run_one(name, exporter, folder)
    outcome = row.get("error") or f"{row['sqnr_db']} dB, {row['ratio']:.2f} of the estimated cycles"
    print(f"{name} ({exporter}, {row['seconds']} s): {outcome}", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
