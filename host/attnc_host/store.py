"""What the accelerator's memory holds: weights, program, and for each sample under way constants, inputs, outputs and activations."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from attnc_host.boundary import Image
from attnc_host.device import Buffer, Device, blank
from attnc_host.errors import AcceleratorError, DeviceError
from attnc_host.manifest import Manifest

BLOCK = 1 << 24
"""Bytes that are moved at a time."""
SLOTS = 2
"""Samples under way: one computes, the next is written."""
MARK = 8
"""Bytes of outputs that are told from what was there before: two of them are equal by chance once in 2**64."""
FILES = {"weights": "weights/weights.bin", "program": "weights/program.bin", "constants": "weights/constants.bin"}


@dataclass(eq=False)
class Slot:
    """Memory for one sample; `marks` is what lay in its outputs before the run."""

    buffer: Buffer
    marks: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))


class Store:
    """Buffers of a build on a device. Nothing is allocated before `load`."""

    def __init__(self, manifest: Manifest, device: Device, coherent: bool) -> None:
        self.manifest, self.device, self.coherent = manifest, device, coherent
        self.slots: list[Slot] = []
        self._buffers: dict[str, Buffer] = {}
        self._random = np.random.default_rng()
        memory, lanes = manifest.memory, manifest.lanes
        self._inputs = (memory.input_offset * lanes, memory.input_words * lanes)
        self._constants = (memory.constant_offset * lanes, memory.constant_words * lanes)
        self._outputs = (memory.output_offset * lanes, memory.output_words * lanes)
        self._size = (memory.words + 2) * lanes  # a port of two words may touch one behind the last

    @property
    def weights(self) -> Buffer:
        """The packed weights."""
        return self._buffers["weights"]

    @property
    def program(self) -> Buffer:
        """The instructions."""
        return self._buffers["program"]

    def load(self) -> None:
        """Allocate, write, and read back what was written."""
        for name in ("weights", "program"):
            path = self._path(name)
            buffer = self._buffers[name] = self._allocate(path.stat().st_size + 2 * self.manifest.lanes, name)
            self._write_file(buffer, 0, path)
        for number in range(SLOTS):
            try:
                buffer = self._allocate(self._size, "memory")
            except AcceleratorError:
                if not number:
                    raise
                break  # one sample at a time, then
            slot = Slot(buffer)
            self.slots.append(slot)
            self._put(buffer, 0, blank(self._size))
            self._write_file(buffer, self._constants[0], self._path("constants"))
        self.verify()

    def _path(self, name: str) -> Path:
        path = self.manifest.folder / FILES[name]
        if not path.is_file():
            raise AcceleratorError(f"{path} is missing, the build folder is damaged; compile the model again")
        return path

    def _allocate(self, size: int, memory: str) -> Buffer:
        try:
            return self.device.allocate(-(-size // 4096) * 4096, memory)
        except (MemoryError, OSError, RuntimeError) as error:
            hint = "a larger CMA pool (cma=512M on the kernel's command line) or u-dma-buf, or close what holds it"
            raise self._error(f"needed {size:,} bytes of contiguous memory for {memory}, and got none: {error}", hint) from error

    def _write_file(self, buffer: Buffer, at: int, path: Path) -> None:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                self._put(buffer, at, np.frombuffer(block, np.uint8))
                at += len(block)

    def _put(self, buffer: Buffer, at: int, data: npt.NDArray[np.uint8]) -> None:
        buffer.array[at : at + data.size] = data
        if not self.coherent:
            buffer.flush(at, data.size)

    def _get(self, buffer: Buffer, at: int, size: int) -> npt.NDArray[np.uint8]:
        if not self.coherent:
            buffer.invalidate(at, size)
        return buffer.array[at : at + size]

    def verify(self) -> None:
        """Weights, program and constants in memory are those of the build: raises `DeviceError` where they are not."""
        places = [("weights", self.weights, 0), ("program", self.program, 0)]
        for name, buffer, start in [*places, *(("constants", slot.buffer, self._constants[0]) for slot in self.slots)]:
            size, digest = self._path(name).stat().st_size, hashlib.sha256()
            for at in range(0, size, BLOCK):
                digest.update(self._get(buffer, start + at, min(BLOCK, size - at)).tobytes())
            if digest.hexdigest() != self._checksum(name):
                hint = "caches that are not maintained (a port that is not coherent), memory that others use too, or bits that flip"
                raise self._error(f"memory does not hold the {name} as written", hint)

    def _error(self, what: str, hint: str) -> DeviceError:
        return DeviceError(f"{self.manifest.top} on {self.device.name}: {what}; hint: {hint}")

    def _checksum(self, name: str) -> str:
        return str(self.manifest.data["files"][FILES[name]]["sha256"])

    def write(self, slot: Slot, image: Image) -> None:
        """Inputs of a sample into memory, and marks where its outputs will be."""
        at, size = self._inputs
        self._put(slot.buffer, at, image)
        found = self._get(slot.buffer, at, size)
        if not np.array_equal(found, image):
            hint = "caches that are not maintained, or memory that others use too"
            raise self._error("memory does not hold the inputs as written", hint)
        slot.marks = self._random.integers(0, 256, self._outputs[1], np.uint8)
        self._put(slot.buffer, self._outputs[0], slot.marks)

    def read(self, slot: Slot, place: slice = slice(None)) -> Image:
        """Outputs of a sample; every part of them, of those that begin in a `place`, must have been written since the inputs were."""
        at, size = self._outputs
        found = self._get(slot.buffer, at, size).copy()
        for fetch in self.manifest.fetches:
            start = fetch.offset * self.manifest.lanes - at
            end = start + fetch.words * self.manifest.lanes
            if start not in range(*place.indices(size)):
                continue
            part = max(MARK, self.manifest.lanes)
            for begin, same in enumerate(_same(found[start:end], slot.marks[start:end], part)):
                if same:
                    where = start + begin * part
                    what = f"bytes {where} to {min(where + part, end) - 1} of the outputs ({fetch.value!r}) are what they were before"
                    raise self._error(f"it is done, but {what}", "a write that never arrived, or a cache line that is stale")
        return found

    def copy(self, source: int, target: int) -> None:
        """The caches of one session of a decoder to those of another."""
        decoder = self.manifest.decoder
        assert decoder is not None
        size = decoder.cache_words * self.manifest.lanes
        first = decoder.cache_offset * self.manifest.lanes
        for slot in self.slots:
            self._put(slot.buffer, first + target * size, self._get(slot.buffer, first + source * size, size))

    def free(self) -> None:
        """Give all buffers back."""
        for buffer in (*self._buffers.values(), *(slot.buffer for slot in self.slots)):
            buffer.free()
        self._buffers, self.slots = {}, []


def _same(found: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8], part: int) -> list[bool]:
    """Whether parts of so many bytes are equal; a rest of fewer than 4 bytes proves nothing."""
    whole = found.size // part * part
    same = (found[:whole].reshape(-1, part) == before[:whole].reshape(-1, part)).all(axis=1).tolist()
    if found.size - whole >= 4:
        same.append(bool(np.array_equal(found[whole:], before[whole:])))
    return same
