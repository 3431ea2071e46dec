"""The accelerator as a function: float arrays in, float arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.boundary import Array, HostGraphs, Image
from attnc_host.csim import CsimBackend
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest
from attnc_host.samples import Samples

CHUNK_BYTES = 1 << 28
"""Memory that the arrays of one call to the backend may take, roughly."""


class Backend(Protocol):
    """Whatever runs the program on samples: a simulator, golden, a board."""

    def execute(self, images: Image) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]."""

    def close(self) -> None:
        """Give back what it holds."""


Factory = Callable[..., Backend]
BACKENDS: dict[str, Factory] = {}


def register_backend(name: str, factory: Factory) -> None:
    """Make `Accelerator.open(..., backend=name)` call `factory(manifest, types=...)`."""
    BACKENDS[name] = factory


register_backend("csim", CsimBackend)


class Accelerator:
    """A build folder on a backend. Use it as a context manager, or call `close`.

    >>> with Accelerator.open("build/", backend="csim") as accelerator:
    ...     outputs = accelerator.run({"image": images})
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest, self.backend = manifest, backend
        self._host: HostGraphs | None = None

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] | Manifest,
        backend: str | Backend = "csim",
        types: str = "native",
        verify: bool = True,
        **options: Any,
    ) -> Accelerator:
        """Read a build folder and start a backend. `types` ("native" or "ap") selects the C++ types of csim. All files are checked against
        their checksums first, unless `verify` is False; `options` go to the backend. A backend may also be given as an object that is
        ready to use."""
        if not isinstance(backend, str):
            return cls(manifests.load(folder, verify), backend)
        if backend not in BACKENDS:
            near = get_close_matches(backend, BACKENDS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise AcceleratorError(f"backend: needed one of {', '.join(sorted(BACKENDS))}, found {backend!r}{hint}")
        manifest = manifests.load(folder, verify)
        return cls(manifest, BACKENDS[backend](manifest, types=types, **options))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs of the model by name, for its inputs by name. `attnc_host.samples` says how arrays hold several samples."""
        if self._host is None:
            self._host = HostGraphs(self.manifest)
        given = boundary.check_inputs(self.manifest, inputs)
        size = self._chunk(given)
        parts = [self._run(given.part(start, size), self._host) for start in range(0, given.count, size)]
        stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return boundary.join(self.manifest, stacked, given.framed)

    def _run(self, given: Samples, host: HostGraphs) -> dict[str, Array]:
        """Outputs of some samples, [samples, *shape]."""
        prepared = boundary.prepare(self.manifest, given, host)
        image = self.backend.execute(boundary.to_image(self.manifest, prepared.values))
        return boundary.finish(self.manifest, boundary.from_image(self.manifest, image), prepared, host)

    def _chunk(self, given: Samples) -> int:
        """So many samples at a time that memory stays bounded."""
        elements = sum(feed.rows * feed.channels for feed in self.manifest.feeds) + sum(a[0].size for a in given.arrays.values())
        return max(1, CHUNK_BYTES // (32 * elements))

    def close(self) -> None:
        """Give back what the backend holds."""
        self.backend.close()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
