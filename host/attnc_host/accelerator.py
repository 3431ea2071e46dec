"""The accelerator as a function: float arrays in, float arrays out."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from attnc_host import archive, backends, boundary, branches
from attnc_host.backends import Backend
from attnc_host.boundary import Array, HostGraphs, Image
from attnc_host.decoder import Contents, Session
from attnc_host.errors import InputError
from attnc_host.manifest import Manifest
from attnc_host.samples import Samples

CHUNK_BYTES = 1 << 28
"""Memory that the arrays of one call to the backend may take, roughly."""


class Accelerator:
    """A build on a backend. Use it as a context manager, or call `close`. Several threads may call it; the board takes them in turn.

    >>> with Accelerator.open("build/", backend="csim") as accelerator:
    ...     outputs = accelerator.run({"image": images})
    """

    def __init__(self, manifest: Manifest, backend: Backend) -> None:
        self.manifest, self.backend = manifest, backend
        self._host: HostGraphs | None = None
        self._held = contextlib.ExitStack()
        self._held.callback(backend.close)
        self._turn = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._caches: dict[int, Contents] = {}

    @classmethod
    def open(
        cls, build: str | os.PathLike[str] | Manifest, backend: str | Backend = "auto", verify: bool = True, **options: Any
    ) -> Accelerator:
        """Open a build folder, or an archive that `attnc package` made, and start a backend: a name, or an object that is ready to use.
        "auto" takes the board that is there, else csim or golden. All files are checked against their checksums first, unless `verify` is
        False; `options` go to the backend (csim: `types`)."""
        with contextlib.ExitStack() as held:
            manifest = held.enter_context(archive.opened(build, verify))
            name = backends.choose(manifest) if backend == "auto" else backend
            found = cls(manifest, backends.make(name, manifest, options) if isinstance(name, str) else name)
            found._held.push(held.pop_all())
            return found

    def session(self, number: int = 0) -> Session:
        """A sequence of tokens on a build that generates them, in the caches of that number; it begins anew, but works on no
        beginning again that caches hold."""
        return Session(self.manifest, self._in_turn, number, self._caches)

    def generate(self, ids: Sequence[int], max_new_tokens: int, **options: Any) -> Iterator[int]:
        """Tokens that follow `ids`, as they come; options as those of `Session.generate`."""
        return self.session().generate(ids, max_new_tokens, **options)

    def held(self, ids: Sequence[int]) -> int | None:
        """The session whose caches hold the beginning of `ids` and nothing else, the longest one; None where there is none."""
        found = [number for number, held in self._caches.items() if held.ids and held.ids == list(ids[: len(held.ids)])]
        return max(found, key=lambda number: len(self._caches[number].ids), default=None)

    def generate_many(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> Iterator[tuple[int, int]]:
        """(number, token) of what follows each of several prompts, as it comes, together where the build was compiled for it (--batch);
        options as those of `attnc_host.branches.generate_many`."""
        return branches.generate_many(self.session(), prompts, max_new_tokens, **options)

    def _in_turn(self, image: Image, scalars: Mapping[str, int]) -> Image:
        """A run of a decoder."""
        with self._turn:
            return backends.execute(self.backend, image[np.newaxis], scalars)[0]

    def run(self, inputs: Mapping[str, Any], integers: bool = False, scalars: Mapping[str, int] | None = None) -> dict[str, Array]:
        """Outputs of the model by name, for its inputs by name; `attnc_host.samples` says how arrays hold several samples. With `integers`
        both are what the device computes with: q of real = scale * (q - zero_point), the types of the manifest's feeds and fetches.
        `scalars` are numbers of this run by the name of their register."""
        if self.manifest.decoder is not None:
            raise InputError(f"{self.manifest.folder}: is a decoder, which generates tokens: use generate")
        given_scalars = self._scalars(scalars)
        if self._host is None:
            self._host = HostGraphs(self.manifest)
        given = boundary.check_inputs(self.manifest, inputs, boundary.integer_ports(self.manifest) if integers else None)
        size = self._chunk(given)
        with self._turn:
            parts = [self._run(given.part(start, size), self._host, integers, given_scalars) for start in range(0, given.count, size)]
        stacked = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return boundary.join(self.manifest, stacked, given.framed)

    def run_async(
        self, inputs: Mapping[str, Any], integers: bool = False, scalars: Mapping[str, int] | None = None
    ) -> Future[dict[str, Array]]:
        """As `run`, at once with a future; calls are answered in their order."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="attnc")
        return self._pool.submit(self.run, inputs, integers, scalars)

    def _run(self, given: Samples, host: HostGraphs, integers: bool, scalars: Mapping[str, int]) -> dict[str, Array]:
        """Outputs of some samples, [samples, *shape]."""
        prepared = boundary.prepare_integers(self.manifest, given) if integers else boundary.prepare(self.manifest, given, host)
        image = boundary.to_image(self.manifest, prepared.values)
        found = backends.execute(self.backend, image, scalars)
        values = boundary.from_image(self.manifest, found)
        return boundary.finish_integers(self.manifest, values) if integers else boundary.finish(self.manifest, values, prepared, host)

    def _scalars(self, given: Mapping[str, int] | None) -> Mapping[str, int]:
        """Scalars of a run, which the accelerator must have registers for."""
        known = self.manifest.registers.scalars
        for name, number in (given or {}).items():
            if name not in known:
                raise InputError(f"scalars: this accelerator takes {', '.join(known) or 'none'}, found {name!r}")
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not -(1 << 31) <= int(number) < 1 << 31:
                raise InputError(f"scalars: {name!r}: needed a whole number of 32 bits, found {number!r}")
        return {name: int(number) for name, number in (given or {}).items()}

    def _chunk(self, given: Samples) -> int:
        """So many samples at a time that memory stays bounded."""
        elements = sum(feed.rows * feed.channels for feed in self.manifest.feeds) + sum(a[0].size for a in given.arrays.values())
        return max(1, CHUNK_BYTES // (32 * elements))

    def close(self) -> None:
        """Wait for what runs, and give back what the backend holds."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._held.close()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
