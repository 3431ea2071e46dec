"""The accelerator as a function: float arrays in, float arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import numpy as np

from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.boundary import Array, HostGraphs, Image
from attnc_host.csim import CsimBackend
from attnc_host.errors import AcceleratorError
from attnc_host.manifest import Manifest

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
        folder: str | os.PathLike[str],
        backend: str | Backend = "csim",
        types: str = "native",
        verify: bool = False,
        **options: Any,
    ) -> Accelerator:
        """Read a build folder and start a backend. `types` ("native" or "ap") selects the C++ types of csim, `verify` checks the
        checksums of all files first; `options` go to the backend. A backend may also be given as an object that is ready to use."""
        if not isinstance(backend, str):
            return cls(manifests.load(folder, verify), backend)
        if backend not in BACKENDS:
            near = get_close_matches(backend, BACKENDS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise AcceleratorError(f"backend: needed one of {', '.join(sorted(BACKENDS))}, found {backend!r}{hint}")
        manifest = manifests.load(folder, verify)
        return cls(manifest, BACKENDS[backend](manifest, types=types, **options))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Outputs of the model by name, for its inputs by name; samples along axis 0 where the model has a batch axis."""
        if self._host is None:
            self._host = HostGraphs(self.manifest)
        boundary.check_inputs(self.manifest, inputs)
        parts = []
        for part in self._chunks(inputs):
            prepared = boundary.prepare(self.manifest, part, self._host)
            image = self.backend.execute(boundary.to_image(self.manifest, prepared.values))
            parts.append(boundary.finish(self.manifest, boundary.from_image(self.manifest, image), prepared, self._host))
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _chunks(self, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The inputs in pieces of so many samples that memory stays bounded, where axis 0 of every output is the samples."""
        arrays, samples = boundary.check_inputs(self.manifest, inputs)
        elements = sum(feed.rows * feed.channels for feed in self.manifest.feeds) + sum(a[0].size for a in arrays.values())
        size = max(1, CHUNK_BYTES // (32 * elements))
        if samples <= size or not all(port.shape and port.shape[0] == 1 for port in self.manifest.outputs):
            yield inputs
            return
        stacked = {port.name for port in self.manifest.inputs if np.shape(inputs[port.name])[:1] == (samples,) and port.shape[0] == 1}
        for start in range(0, samples, size):
            yield {name: np.asarray(array)[start : start + size] if name in stacked else array for name, array in inputs.items()}

    def close(self) -> None:
        """Give back what the backend holds."""
        self.backend.close()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
