"""What runs the program of a build, by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from attnc_host.boundary import Image
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest


class Backend(Protocol):
    """Whatever runs the program on samples: a simulator, golden, a board."""

    def execute(self, images: Image) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]. One that takes scalars of a run has a second
        argument, their numbers by name, which is given where a user gives some."""

    def close(self) -> None:
        """Give back what it holds."""


def execute(backend: Backend, images: Image, scalars: Mapping[str, int]) -> Image:
    """Run samples; scalars of the run are given where there are some."""
    return backend.execute(images, scalars) if scalars else backend.execute(images)  # type: ignore[call-arg]


Factory = Callable[..., Backend]
BACKENDS: dict[str, Factory] = {}
MODULES = {
    "csim": ("attnc_host.csim", "CsimBackend"),
    "golden": ("attnc.verify.golden_backend", "GoldenBackend"),
    "cosim": ("attnc.sim.backend", "CosimBackend"),
    "pynq": ("attnc_host.boards.open", "pynq"),
    "uio": ("attnc_host.boards.open", "uio"),
    "virtual": ("attnc_host.boards.open", "VirtualDriver"),
    "xrt": ("attnc_host.boards.open", "xrt"),
}
"""Where those come from that are loaded on first use; golden and cosim where the compiler is installed."""


def register_backend(name: str, factory: Factory) -> None:
    """Make `Accelerator.open(..., backend=name)` call `factory(manifest, types=...)`."""
    BACKENDS[name] = factory


def names() -> list[str]:
    """All that are known."""
    return sorted({*BACKENDS, *MODULES})


def make(name: str, manifest: Manifest, options: Mapping[str, Any]) -> Backend:
    """A backend by its name."""
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise AcceleratorError(f"backend: needed one of {', '.join(known)}, found {name!r}{hint}")
    if name not in BACKENDS:
        module, factory = MODULES[name]
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise AcceleratorError(f"backend {name!r} needs the compiler, which is not installed: pip install attnc")
        BACKENDS[name] = getattr(importlib.import_module(module), factory)
    return BACKENDS[name](manifest, **options)


def choose(manifest: Manifest) -> str:
    """What "auto" means: the board that is here, else csim where the build has its sources, else golden."""
    from attnc_host.boards import open as boards

    if board := boards.found(manifest):
        return board
    return "csim" if (manifest.folder / "hls" / "Makefile").is_file() else "golden"
