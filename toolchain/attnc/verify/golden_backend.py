"""Backend "golden": the integer model in NumPy, behind the interface of the hardware."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from attnc.codegen.graph_file import load_graph
from attnc.decoding.golden import GoldenDecoder
from attnc.errors import BuildError
from attnc.golden import run_golden
from attnc_host import boundary
from attnc_host import manifest as manifests
from attnc_host.boundary import Image
from attnc_host.caches import COPY
from attnc_host.decoder import decoder_of
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress

CHUNK_ELEMENTS = 1 << 23
"""Elements of the largest tensor, over all samples of one walk through the graph."""
MAX_CHUNK = 64


class GoldenBackend:
    """Runs the quantized graph of a build folder; a few samples at a time, so that memory stays bounded. `types` has no meaning here."""

    def __init__(self, build: Manifest | Path, types: str = "native", progress: Progress | None = None) -> None:
        manifest = manifests.load(build, edited=True)
        self.manifest = manifest
        self.graph = load_graph(manifest.folder / "golden")
        self.progress = progress or Progress()
        needed = {fetch.value for fetch in manifest.fetches} - set(self.graph.outputs)
        absent = needed | (set(self.graph.inputs) - {feed.value for feed in manifest.feeds})
        if absent:
            raise BuildError(f"{manifest.folder}: graph.json and manifest.json disagree about {', '.join(map(repr, sorted(absent)))}")
        largest = max(shape[0] * shape[1] for shape in (value.shape for value in self.graph.values.values()))
        self._sessions: dict[int, GoldenDecoder] = {}
        self.chunk = min(MAX_CHUNK, max(1, CHUNK_ELEMENTS // largest))

    def execute(self, images: Image, scalars: Mapping[str, int] | None = None) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]; with `scalars`, runs of a decoder."""
        if scalars:
            return np.stack([self._entry(image, scalars) for image in images])
        samples, parts = images.shape[0], []
        self.progress.stage(f"golden: {samples} sample{'s' if samples > 1 else ''}")
        try:
            for start in range(0, samples, self.chunk):
                self.progress.update(start, samples)
                feeds = boundary.read_inputs(self.manifest, images[start : start + self.chunk])
                found = run_golden(self.graph, {name: self.graph.type(name).from_memory(array) for name, array in feeds.items()})
                parts.append(
                    boundary.write_outputs(self.manifest, {name: self.graph.type(name).to_memory(array) for name, array in found.items()})
                )
        finally:
            self.progress.finish()
        return np.concatenate(parts)

    def _entry(self, image: Image, scalars: Mapping[str, int]) -> Image:
        """A run of a decoder, over the caches of a session."""
        if scalars["first"] == COPY:
            self._sessions[scalars["session"]] = self._sessions[scalars["position"]].copy()
            return np.zeros(self.manifest.output_bytes, np.uint8)
        session = self._sessions.setdefault(scalars["session"], GoldenDecoder(self.graph))
        name, entry = next(pair for pair in decoder_of(self.manifest).entries.items() if pair[1].first == scalars["first"])
        rows = boundary.read_inputs(self.manifest, image[np.newaxis])[entry.input][0]
        feeds = {entry.input: self.graph.type(entry.input).from_memory(rows)}
        found = session.run(name, scalars["position"], feeds, scalars.get("prefix", 0))
        values = {fetch.value: np.zeros((1, fetch.rows, fetch.channels), fetch.type.dtype) for fetch in self.manifest.fetches}
        values |= {key: self.graph.type(key).to_memory(array[np.newaxis]) for key, array in found.items()}
        return boundary.write_outputs(self.manifest, values)[0]

    def close(self) -> None:
        """Nothing to give back."""
