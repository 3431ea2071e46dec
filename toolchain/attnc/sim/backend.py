"""Backend "cosim": the emitted C++ in simulated time, behind the interface of the hardware."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from attnc.sim.program import load_listing
from attnc.sim.simulator import open_simulator
from attnc.verify.cosim import DEADLOCK, settings
from attnc_host.boundary import Image
from attnc_host.caches import COPY
from attnc_host.csim import Served
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress

CYCLES = np.dtype("<i8")
"""What the test bench says of each run of a decoder, behind its outputs."""


def board_settings(manifest: Manifest, style: str = "flp") -> str:
    """Settings of the simulator in time, as the virtual board gives them to it."""
    return settings(style, load_listing(manifest.folder).timing(), {})


class CosimBackend:
    """Runs samples one by one in pipelines of `style` (flp or stp). `cycles` are those of every sample, or run of a decoder, so far."""

    def __init__(self, manifest: Manifest, style: str = "flp", progress: Progress | None = None) -> None:
        self.manifest, self.style, self.progress = manifest, style, progress or Progress()
        self.cycles: list[int] = []
        self._served: Served | None = None
        self._held = contextlib.ExitStack()
        listing = load_listing(manifest.folder)
        self.progress.stage("compiling the simulator in time")
        try:
            self.simulator = self._held.enter_context(open_simulator(manifest.folder, listing.timing(), listing))
        finally:
            self.progress.finish()

    def execute(self, images: Image, scalars: Mapping[str, int] | None = None) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]; with `scalars`, runs of a decoder."""
        if scalars:
            return np.stack([self._entry(image, scalars) for image in images])
        self.progress.stage(f"simulating {images.shape[0]} samples in time")
        found = []
        try:
            for number, image in enumerate(images):
                self.progress.update(number, images.shape[0])
                output, run = self.simulator.outputs(image, self.style)
                if run.deadlock is not None:
                    raise _stands_still(f"in cycle {run.deadlock}")
                self.cycles.append(run.cycles)
                found.append(output)
        finally:
            self.progress.finish()
        return np.stack(found)

    def _entry(self, image: Image, scalars: Mapping[str, int]) -> Image:
        """A run of a decoder, in a process that keeps its memory, and goes on in its time."""
        simulator = self.simulator
        if self._served is None:
            folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="attnc-cosim-")))
            given = folder / "settings.txt"
            given.write_text(settings(self.style, simulator.timing, simulator.depths))
            where = {"ATTNC_COSIM_SETTINGS": str(given), "ATTNC_COSIM_REPORT": str(folder / "report.txt")}
            self._served = Served(simulator.program, simulator.data, where)
            self._held.callback(self._served.close)
        try:
            found = self._served.run(image, scalars, self.manifest.output_bytes + CYCLES.itemsize)
        except AcceleratorError as error:
            if self._served.process.returncode == DEADLOCK:
                raise _stands_still(f"at position {scalars['position']}") from error
            raise
        if scalars["first"] != COPY:  # which the host does
            self.cycles.append(int(np.frombuffer(found, CYCLES, 1, self.manifest.output_bytes)[0]))
        return np.frombuffer(found, np.uint8, self.manifest.output_bytes)

    def close(self) -> None:
        """End the process of a decoder, and remove the copy of the sources, if one was made."""
        self._held.close()


def _stands_still(where: str) -> AcceleratorError:
    return AcceleratorError(f"the simulation stands still {where}: `attnc cosim` says who waits for what")
