"""Whether a board computes what golden does, and how fast, for how much power: `python -m attnc_host selftest app.zip`."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attnc_host import archive, backends, boundary
from attnc_host.backends import Backend
from attnc_host.caches import DECODE
from attnc_host.errors import AcceleratorError
from attnc_host.integrity import OWN
from attnc_host.manifest import Manifest
from attnc_host.vectors import Vector, replay, stored

SCHEMA = 1
HARDWARE = ("pynq", "uio", "xrt")
"""Backends whose figures are of a device; those of others are of this computer, or of a simulation."""
PERCENTILES = (50, 90, 99)
RUNS = 200
SENSORS = "/sys/class/hwmon"
INTERVAL = 0.02
"""Seconds between two looks at the sensors."""


def selftest(
    build: str | os.PathLike[str], backend: str = "auto", runs: int = RUNS, options: Mapping[str, Any] | None = None, sensors: str = SENSORS
) -> dict[str, Any]:
    """Run the golden vectors of a build or an archive, then `runs` samples one by one and as many in one batch; facts as plain values."""
    if runs < 1:
        raise AcceleratorError(f"runs: needed 1 or more, found {runs}")
    with archive.opened(build) as manifest:
        name = backends.choose(manifest) if backend == "auto" else backend
        vectors = stored(manifest)
        device = backends.make(name, manifest, options or {})
        run = partial(backends.execute, device)
        try:
            found, expected = replay(run, vectors)
            mismatches = boundary.different(manifest, found, expected)
            compared = [vector for vector in vectors if vector.expected is not None]
            first = None if manifest.decoder is None else manifest.decoder.entries[DECODE].first
            timed = [vector for vector in compared if vector.scalars.get("first") == first]
            return {**_facts(manifest, name, device), **_compared(manifest, compared, mismatches), **_speed(device, timed, runs, sensors)}
        finally:
            device.close()


def _facts(manifest: Manifest, name: str, device: Backend) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": manifest.name,
        "build": manifest.data[OWN],
        "target": manifest.data["target"]["name"],
        "backend": name,
        "device": getattr(getattr(device, "device", None), "name", name),
        "hardware": name in HARDWARE,
        "system": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
    }


def _compared(manifest: Manifest, vectors: list[Vector], mismatches: int) -> dict[str, Any]:
    places = [((fetch.offset - manifest.memory.output_offset) * manifest.lanes, fetch.words) for fetch in manifest.fetches]
    written = [range(*vector.written.indices(manifest.output_bytes)) for vector in vectors]
    words = sum(count for own in written for place, count in places if place in own)
    return {"vectors": len(vectors), "bytes": words * manifest.lanes, "mismatches": mismatches}


def _speed(device: Backend, vectors: list[Vector], runs: int, sensors: str) -> dict[str, Any]:
    """Latency from start to done and of the whole call, throughput of a batch, power meanwhile; of a decoder, of a token."""
    clock = getattr(getattr(device, "device", None), "now", time.monotonic)
    idle = Power(sensors).read()
    on_device: list[float] = []
    calls: list[float] = []
    with Power(sensors) as power:
        for number in range(runs):
            begin = clock()
            vector = vectors[number % len(vectors)]
            backends.execute(device, vector.inputs[np.newaxis], vector.scalars)
            calls.append(clock() - begin)
            on_device += getattr(device, "seconds", [])[-1:] if isinstance(getattr(device, "seconds", None), list) else []
        begin = clock()
        backends.execute(device, np.stack([vectors[number % len(vectors)].inputs for number in range(runs)]), vectors[-1].scalars)
        seconds = clock() - begin
    return {
        "runs": runs,
        "latency_ms": percentiles(on_device or calls),
        "call_ms": percentiles(calls),
        "throughput_per_second": runs / seconds if seconds > 0 else None,
        "power_watts": {"idle": idle, "busy": power.mean()} if idle else None,
        "missed_interrupts": getattr(device, "missed", 0),
        "recovered": getattr(device, "recovered", 0),
    }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ms = np.asarray(seconds) * 1000
    found = {f"p{p}": float(np.percentile(ms, p)) for p in PERCENTILES}
    return {"min": float(ms.min()), **found, "max": float(ms.max())}


class Power:
    """Sensors of hwmon, in watts by name, read while the block runs."""

    def __init__(self, folder: str) -> None:
        self.files = {f"{path.parent.name}:{self._label(path)}": path for path in sorted(Path(folder).glob("hwmon*/power*_input"))}
        self.seen: dict[str, list[float]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def _label(path: Path) -> str:
        for name in (path.name.replace("_input", "_label"), "name"):
            if (path.parent / name).is_file():
                return (path.parent / name).read_text().strip()
        return path.name

    def read(self) -> dict[str, float]:
        """Once; a sensor that does not answer is left out."""
        found = {}
        for name, path in self.files.items():
            try:
                found[name] = int(path.read_text()) / 1e6
            except (OSError, ValueError):
                continue
        return found

    def _watch(self) -> None:
        while True:
            for name, watts in self.read().items():
                self.seen.setdefault(name, []).append(watts)
            if self._end.wait(INTERVAL):
                return

    def mean(self) -> dict[str, float]:
        """Over the block."""
        return {name: float(np.mean(watts)) for name, watts in self.seen.items()}

    def __enter__(self) -> Power:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def text(facts: Mapping[str, Any]) -> str:
    """The facts for a reader."""
    of = "" if facts["hardware"] else "  (no device: times are of a simulation, or of this computer)"
    lines = [f"{facts['name']} for {facts['target']} on {facts['device']}, backend {facts['backend']}; {facts['system']}{of}"]
    equal = "equal to golden, bit for bit" if not facts["mismatches"] else f"{facts['mismatches']:,} bytes DIFFER from golden"
    lines.append(f"vectors     {facts['vectors']}, {facts['bytes']:,} bytes: {equal}")
    for name, what in (("latency_ms", "on the device"), ("call_ms", "of a call")):
        row = "  ".join(f"{key} {value:.4g}" for key, value in facts[name].items())
        lines.append(f"latency     {row} ms, {what}")
    if facts["throughput_per_second"] is not None:
        lines.append(f"throughput  {facts['throughput_per_second']:,.1f} samples per second, {facts['runs']} in one call")
    power = facts["power_watts"]
    watts = [(name, found, power["idle"].get(name, float("nan"))) for name, found in power["busy"].items()] if power else []
    shown = ", ".join(f"{name} {found:.2f} W (idle {idle:.2f})" for name, found, idle in watts) or "no sensor"
    lines.append(f"power       {shown}")
    if facts["missed_interrupts"]:
        lines.append(f"interrupts  {facts['missed_interrupts']} never came; these runs were found done by looking")
    return "\n".join(lines)
