"""Backend "cosim": the emitted C++ in simulated time, behind the interface of the hardware."""

from __future__ import annotations

import contextlib

import numpy as np

from attnc.sim.program import load_listing
from attnc.sim.simulator import open_simulator
from attnc.verify.cosim import settings
from attnc_host.boundary import Image
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress


def board_settings(manifest: Manifest, style: str = "flp") -> str:
    """Settings of the simulator in time, as the virtual board gives them to it."""
    return settings(style, load_listing(manifest.folder).timing(), {})


class CosimBackend:
    """Runs samples one by one in pipelines of `style` (flp or stp). After `execute`, `cycles` are those of the last sample."""

    def __init__(self, manifest: Manifest, style: str = "flp", progress: Progress | None = None) -> None:
        self.manifest, self.style, self.progress = manifest, style, progress or Progress()
        self.cycles = 0
        self._held = contextlib.ExitStack()
        listing = load_listing(manifest.folder)
        self.progress.stage("compiling the simulator in time")
        try:
            self.simulator = self._held.enter_context(open_simulator(manifest.folder, listing.timing(), listing))
        finally:
            self.progress.finish()

    def execute(self, images: Image) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]."""
        self.progress.stage(f"simulating {images.shape[0]} samples in time")
        found = []
        try:
            for number, image in enumerate(images):
                self.progress.update(number, images.shape[0])
                output, run = self.simulator.outputs(image, self.style)
                if run.deadlock is not None:
                    raise AcceleratorError(f"the simulation stands still in cycle {run.deadlock}: `attnc cosim` says who waits for what")
                self.cycles = run.cycles
                found.append(output)
        finally:
            self.progress.finish()
        return np.stack(found)

    def close(self) -> None:
        """Remove the copy of the sources, if one was made."""
        self._held.close()
