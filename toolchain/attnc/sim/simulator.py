"""The simulator of a build, compiled once and run as often as there are questions: depths of FIFOs are settings, not sources."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from attnc.errors import BuildError
from attnc.sim.program import Listing, load_listing
from attnc.sim.timeline import bin_cycles
from attnc.verify.cosim import STYLES, CosimRun, Timing, Tracing, run_cosim
from attnc_host import AcceleratorError
from attnc_host.boundary import Image
from attnc_host.csim import simulator

Found = TypeVar("Found")


@dataclass
class Simulator:
    """Runs a build's first sample in time. `depths` are those of FIFOs that replace those of the sources, by name."""

    program: Path
    data: Path
    listing: Listing
    timing: Timing
    depths: dict[str, int] = field(default_factory=dict)
    runs: int = 0

    def run(
        self,
        style: str,
        depths: Mapping[str, int] | None = None,
        unbounded: bool = False,
        trace: Tracing | None = None,
        bin_cycles: int = 0,
        stalls: int | None = None,
    ) -> CosimRun:
        """One run; `depths` come on top of the simulator's own."""
        self.runs += 1
        given = {**self.depths, **(depths or {})}
        return run_cosim(self.program, self.data, style, self.timing, given, unbounded, trace, bin_cycles, stalls)

    def binned(self, style: str) -> CosimRun:
        """One run that counts over time too, in the bins that cosim.json tells."""
        return self.run(style, bin_cycles=bin_cycles(self.listing.estimate))

    def entry(self, style: str, image: Image, setting: Sequence[int]) -> CosimRun:
        """One run of a decoder, from the integers that start it: what it gives is not looked at, since
        caches hold nothing."""
        with tempfile.TemporaryDirectory(prefix="attnc-cosim-") as temporary:
            given, found, runs = (Path(temporary) / name for name in ("inputs.bin", "outputs.bin", "runs.bin"))
            image.tofile(given)
            np.array(setting, "<i4").tofile(runs)
            return run_cosim(self.program, self.data, style, self.timing, self.depths, files=(given, found, runs))

    @contextmanager
    def with_weights(self, weights: Path) -> Iterator[Simulator]:
        """The same with other packed weights."""
        with tempfile.TemporaryDirectory(prefix="attnc-cosim-") as temporary:
            data = Path(temporary)
            for path in self.data.iterdir():
                (data / path.name).symlink_to(weights.resolve() if path.name == "weights.bin" else path.resolve())
            yield Simulator(self.program, data, self.listing, self.timing, self.depths)

    def outputs(self, image: Image, style: str = "flp") -> tuple[Image, CosimRun]:
        """What the device writes for the memory image of a sample's inputs, and how it came to it."""
        with tempfile.TemporaryDirectory(prefix="attnc-cosim-") as temporary:
            given, found = Path(temporary) / "inputs.bin", Path(temporary) / "outputs.bin"
            image.tofile(given)
            run = run_cosim(self.program, self.data, style, self.timing, self.depths, files=(given, found))
            return np.fromfile(found, np.uint8) if found.is_file() else np.zeros(0, np.uint8), run


def in_styles(run: Callable[[str], Found], styles: Sequence[str] = STYLES) -> list[Found]:
    """A run in each style of pipelines, at the same time."""
    with ThreadPoolExecutor(len(styles)) as pool:
        return list(pool.map(run, styles))


@contextmanager
def open_simulator(build: Path, timing: Timing, listing: Listing | None = None) -> Iterator[Simulator]:
    """Compile the simulator of a build folder, in a copy where the folder cannot be written."""
    listing = listing or load_listing(build)
    try:
        with simulator(build / "hls", "native", "cosim") as program:
            yield Simulator(program, build / "hls" / "data", listing, timing)
    except AcceleratorError as error:
        raise BuildError(str(error)) from error
