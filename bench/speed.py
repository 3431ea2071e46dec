"""How fast the tool itself is, on a BERT-shaped encoder of 22 million parameters (the sizes of all-MiniLM-L6-v2, random weights).

    python bench/speed.py [--runs 3] [--part quick] [--json]

Measures compilation without its last check (wall time, CPU time, peak memory, and what QuantEase is of it), golden and the native C++
simulation beside onnxruntime's float time for the same input, and how long g++ takes for the emitted sources of 1 and of 12 layers.
Figures are medians of several runs; what is compared is measured in turns within one run, so that a busy machine slows both. The table is
printed beside the last stored one and stored in bench/results/speed.json, with facts about the machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.common import compile_once, last, machine, present, seconds, store
from models import bert_random

from attnc.codegen.graph_file import load_graph
from attnc.golden import run_golden
from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.csim import CsimBackend

MINILM = {"width": 384, "heads": 12, "mlp_width": 1536, "vocabulary": 30522, "sequence": 128}
SENTENCES = 32
AT_MOST = {
    "compile_s": 90.0,
    "compile_peak_mib": 4096.0,
    "quantease_cpu_s": 10.0,
    "golden_over_onnxruntime": 4.0,
    "csim_over_onnxruntime": 30.0,
    "cxx_1_layer_s": 30.0,
    "cxx_12_layers_s": 30.0,
    "cxx_12_over_1": 1.2,
}
AT_LEAST = {"csim_gmac_s": 1.0, "cxx_12_over_1": 0.8}
"""Targets of the project; what is in neither is there to explain."""


def export(folder: Path, layers: int) -> tuple[Path, Path]:
    """Model and calibration sentences."""
    model, calib = folder / f"bert{layers}.onnx", folder / "calib.npz"
    bert_random.export(model, exporter="torchscript", layers=layers, dynamic_sequence=False, **MINILM)  # type: ignore[arg-type]
    tokens, mask = bert_random.sample_inputs(SENTENCES, MINILM["sequence"], MINILM["vocabulary"], 1)
    np.savez(calib, input_ids=tokens.numpy(), attention_mask=mask.numpy())
    return model, calib


def simulation(model: Path, calib: Path, build: Path, runs: int) -> dict[str, list[float]]:
    """Seconds per sentence of onnxruntime, golden and csim (one process), in turns."""
    manifest, graph = manifests.load(build), load_graph(build / "golden")
    images = np.fromfile(build / "golden" / "inputs.bin", np.uint8).reshape(-1, manifest.input_bytes)[:2]
    feeds = boundary.read_inputs(manifest, images)
    session = onnxruntime.InferenceSession(str(model))
    with np.load(calib) as data:
        sentence = {name: data[name][:1] for name in data.files}
    found: dict[str, list[float]] = {"onnxruntime_s": [], "golden_s": [], "csim_s": []}
    session.run(None, sentence)
    for _ in range(runs):
        found["onnxruntime_s"].append(statistics.median(seconds(lambda: session.run(None, sentence)) for _ in range(5)))
        found["golden_s"].append(seconds(lambda: run_golden(graph, feeds)) / len(images))
        backend = CsimBackend(manifest, processes=1)
        backend.execute(images)
        backend.close()
        found["csim_s"].append(backend.seconds / len(images))
    return found


def compile_cxx(builds: dict[int, Path], runs: int) -> dict[str, list[float]]:
    """Seconds that g++ takes for the sources of each build, in turns."""
    found: dict[str, list[float]] = {f"cxx_{n}_layer{'s' if n > 1 else ''}_s": [] for n in builds}
    for _ in range(runs):
        for name, build in zip(found, builds.values(), strict=True):
            subprocess.run(["make", "-s", "-C", build / "hls", "clean"], check=True)
            found[name].append(seconds(lambda build=build: subprocess.run(["make", "-s", "-C", build / "hls", "build"], check=True)))  # type: ignore[misc]
    return found


def compilation(model: Path, calib: Path, folder: Path, runs: int) -> dict[str, list[float]]:
    """What compiling takes, and how much of it QuantEase, the default quantizer, adds to `mse`: its own time and a second walk through the
    calibration samples."""
    found: dict[str, list[float]] = {"compile_s": [], "compile_cpu_s": [], "compile_peak_mib": [], "quantease_cpu_s": []}
    for _ in range(runs):
        plain = compile_once(model, calib, folder / "build_mse", "--force", "--quantizer", "mse")
        usual = compile_once(model, calib, folder / "build6", "--force")
        for name, figure in zip(found, (*usual, usual.cpu_seconds - plain.cpu_seconds), strict=True):
            found[name].append(figure)
    return found


def measure(runs: int, part: str) -> dict[str, list[float]]:
    """Figures, a list of runs each."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="attnc-bench-") as temporary:
        folder = Path(temporary)
        model, calib = export(folder, 6)
        found |= compilation(model, calib, folder, runs)
        if part == "compile":
            return found
        found |= simulation(model, calib, folder / "build6", runs)
        macs = json.loads((folder / "build6" / "report.json").read_text())["estimate"]["multiply_adds"]
        found["csim_gmac_s"] = [macs / s / 1e9 for s in found["csim_s"]]
        for kind in ("golden", "csim"):
            found[f"{kind}_over_onnxruntime"] = [a / b for a, b in zip(found[f"{kind}_s"], found["onnxruntime_s"], strict=True)]
        if part == "all":
            builds = {}
            for layers in (1, 12):
                deep, calib = export(folder, layers)
                builds[layers] = folder / f"build{layers}"
                compile_once(deep, calib, builds[layers])
                deep.unlink()
            found |= compile_cxx(builds, runs)
            found["cxx_12_over_1"] = [b / a for a, b in zip(found["cxx_1_layer_s"], found["cxx_12_layers_s"], strict=True)]
    return found


def entry(name: str, runs: list[float]) -> dict[str, Any]:
    """Median, runs and, where there is a target, what was asked for and whether it is met."""
    median = statistics.median(runs)
    found: dict[str, Any] = {"median": round(median, 4), "runs": [round(x, 4) for x in runs]}
    if name in AT_MOST or name in AT_LEAST:
        low, high = AT_LEAST.get(name), AT_MOST.get(name)
        wanted = [*([f"at least {low:g}"] if low is not None else []), *([f"at most {high:g}"] if high is not None else [])]
        found["target"] = ", ".join(wanted)
        found["met"] = (low is None or median >= low) and (high is None or median <= high)
    return found


def show(results: dict[str, Any], before: dict[str, Any]) -> None:
    """The table, with the medians that were stored last."""
    print(f"{'':26}{'median':>10}{'last':>10}")
    for name, found in results.items():
        old = f"{before[name]['median']:10.3f}" if name in before else f"{'-':>10}"
        verdict = f"{found['target']}: {'met' if found['met'] else 'MISSED'}" if "target" in found else ""
        print(f"{name:26}{found['median']:10.3f}{old}  {verdict}")


def main() -> None:
    """Measure, print, compare, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--part", choices=["all", "quick", "compile"], default="all", help="quick: without the sources of 1 and 12 layers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    facts, before = machine(), last("speed")
    results = {name: entry(name, runs) for name, runs in measure(max(1, args.runs), args.part).items()}
    store("speed", facts, {**before, **results})
    present(facts, results, args.json, lambda: show(results, before))


if __name__ == "__main__":
    main()
