"""What the measurements share: facts about the machine, stored results, a run of `attnc compile`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"


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


def last(name: str) -> dict[str, Any]:
    """The results that were stored last under `name`; empty where there are none."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())["results"]) if path.is_file() else {}


def store(name: str, facts: dict[str, Any], results: dict[str, Any]) -> None:
    """Keep results, with the machine that they were measured on, in bench/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"schema": 1, "machine": facts, "results": results}, indent=1) + "\n")


def as_line(facts: dict[str, Any]) -> str:
    """The machine in one line."""
    return "machine: " + ", ".join(f"{name} {value}" for name, value in facts.items())


def present(facts: dict[str, Any], results: dict[str, Any], as_json: bool, show: Callable[[], object]) -> None:
    """Machine and results on stdout: as JSON, or in the table that `show` prints."""
    if as_json:
        print(json.dumps({"machine": facts, "results": results}, indent=1))
    else:
        print(as_line(facts))
        show()


def seconds(action: Callable[[], object]) -> float:
    """Wall time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Compiled(NamedTuple):
    """What a compilation took: wall time and CPU time in seconds, peak memory in MiB. CPU time depends less on what else runs."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def compile_once(model: Path, calib: Path, output: Path, *options: str) -> Compiled:
    """A run of `attnc compile` for the KV260, in a process of its own; ends this one if that fails."""
    command = [sys.executable, "-m", "attnc", "compile", model, "--target", "kv260", "--calib", calib, "-o", output]
    command += ["--no-check", "--quiet", *options]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'toolchain'}:{ROOT / 'host'}"}
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return Compiled(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
