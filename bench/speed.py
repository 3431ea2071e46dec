"""How fast the tool itself is, on a BERT-shaped encoder of 22 million parameters (the sizes of all-MiniLM-L6-v2, random weights).

    python bench/speed.py [--runs 3] [--quick]

Measures compilation (wall time and peak memory), golden and the native C++ simulation beside onnxruntime's float time for the same
input, and how long g++ takes for the emitted sources of 1 and of 12 layers. Figures are medians of several runs; what is compared
is measured in turns within one run, so that a busy machine slows both. The table is printed beside the last stored one and stored in
bench/results/speed.json, with facts about the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "toolchain"), str(ROOT / "host")]

from models import bert_random  # noqa: E402

from attnc.codegen.graph_file import load_graph  # noqa: E402
from attnc.golden import run_golden  # noqa: E402
from attnc_host import boundary  # noqa: E402
from attnc_host import manifest as manifests  # noqa: E402
from attnc_host.csim import CsimBackend  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "speed.json"
MINILM = {"width": 384, "heads": 12, "mlp_width": 1536, "vocabulary": 30522, "sequence": 128}
SENTENCES = 32
TARGETS = {
    "compile_s": 90.0,
    "compile_peak_mib": 4096.0,
    "golden_over_onnxruntime": 4.0,
    "csim_over_onnxruntime": 30.0,
    "cxx_1_layer_s": 30.0,
    "cxx_12_layers_s": 30.0,
    "cxx_12_over_1": 1.2,
}
"""Upper limits; `csim_gmac_s` has a lower one."""
LEAST_CSIM_GMAC_S = 1.0


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?")
    compiler = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "g++": compiler,
    }


def seconds(action: Callable[[], object]) -> float:
    """Wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def export(folder: Path, layers: int) -> tuple[Path, Path]:
    """Model and calibration sentences."""
    model, calib = folder / f"bert{layers}.onnx", folder / "calib.npz"
    bert_random.export(model, exporter="torchscript", layers=layers, dynamic_sequence=False, **MINILM)  # type: ignore[arg-type]
    tokens, mask = bert_random.sample_inputs(SENTENCES, MINILM["sequence"], MINILM["vocabulary"], 1)
    np.savez(calib, input_ids=tokens.numpy(), attention_mask=mask.numpy())
    return model, calib


def compile_once(model: Path, calib: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak MiB of `attnc compile` in a process of its own."""
    command = [sys.executable, "-m", "attnc", "compile", model, "--target", "kv260", "--calib", calib, "-o", output, "--quiet"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'toolchain'}:{ROOT / 'host'}"}
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - start, usage.ru_maxrss / 1024


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


def measure(runs: int, quick: bool) -> dict[str, list[float]]:
    """All figures, a list of runs each."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="attnc-bench-") as temporary:
        folder = Path(temporary)
        model, calib = export(folder, 6)
        compiled = [compile_once(model, calib, folder / "build6") for _ in range(runs)]
        found["compile_s"], found["compile_peak_mib"] = [c[0] for c in compiled], [c[1] for c in compiled]
        found |= simulation(model, calib, folder / "build6", runs)
        macs = json.loads((folder / "build6" / "report.json").read_text())["estimate"]["multiply_adds"]
        found["csim_gmac_s"] = [macs / s / 1e9 for s in found["csim_s"]]
        for kind in ("golden", "csim"):
            found[f"{kind}_over_onnxruntime"] = [a / b for a, b in zip(found[f"{kind}_s"], found["onnxruntime_s"], strict=True)]
        if not quick:
            builds = {}
            for layers in (1, 12):
                deep, calib = export(folder, layers)
                builds[layers] = folder / f"build{layers}"
                compile_once(deep, calib, builds[layers])
                deep.unlink()
            found |= compile_cxx(builds, runs)
            found["cxx_12_over_1"] = [b / a for a, b in zip(found["cxx_1_layer_s"], found["cxx_12_layers_s"], strict=True)]
    return found


def verdict(name: str, value: float) -> str:
    """Beside its target, where it has one."""
    if name == "csim_gmac_s":
        return f"at least {LEAST_CSIM_GMAC_S:g}: {'ok' if value >= LEAST_CSIM_GMAC_S else 'MISSED'}"
    if name in TARGETS:
        return f"at most {TARGETS[name]:g}: {'ok' if value <= TARGETS[name] else 'MISSED'}"
    return ""


def main() -> None:
    """Measure, print, compare, store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="leave out the sources of 1 and 12 layers")
    args = parser.parse_args()
    facts = machine()
    last = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else {}
    found = measure(max(1, args.runs), args.quick)
    results = {name: {"median": round(statistics.median(v), 4), "runs": [round(x, 4) for x in v]} for name, v in found.items()}
    print("machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'':26}{'median':>10}{'last':>10}")
    for name, entry in results.items():
        before = f"{last[name]['median']:10.3f}" if name in last else f"{'-':>10}"
        print(f"{name:26}{entry['median']:10.3f}{before}  {verdict(name, entry['median'])}")
    RESULTS.parent.mkdir(exist_ok=True)
    kept = {**last, **results}
    RESULTS.write_text(json.dumps({"schema": 1, "machine": facts, "results": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
