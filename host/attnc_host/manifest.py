"""The manifest of a build folder: read and checked before anything trusts it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host import layout
from attnc_host.errors import AcceleratorError

SCHEMA = 1
MAX_ELEMENTS = 1 << 31
"""Elements of one tensor."""


@dataclass(frozen=True, eq=False)
class NumberType:
    """Integers of the device: real = scale * (q - zero_point); `scale` has shape () or [channels]."""

    bits: int
    signed: bool
    scale: npt.NDArray[np.float64]
    zero_point: int

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)

    @property
    def size(self) -> int:
        """Bytes of an element in the accelerator's memory."""
        return 1 if self.bits <= 8 else 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type that holds the integers."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.size}")


@dataclass(frozen=True)
class Port:
    """An input or output of the ONNX model, for one sample; `batched`: axis 0 takes any number of samples."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batched: bool


@dataclass(frozen=True)
class Source:
    """Flat positions of a tensor's elements in another tensor: a nest of loops, or an array in a file."""

    elements: int
    offset: int = 0
    counts: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    file: Path | None = None

    def index(self) -> npt.NDArray[np.int64]:
        """Positions [elements]."""
        if self.file is None:
            found = np.array([self.offset], np.int64)
            for count, stride in zip(self.counts, self.strides, strict=True):
                found = (found[:, None] + np.arange(count, dtype=np.int64) * stride).reshape(-1)
            return found
        try:
            loaded = np.load(self.file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise AcceleratorError(f"{self.file}: not an index array (.npy): {error}") from error
        if not isinstance(loaded, np.ndarray) or loaded.dtype.kind not in "iu" or loaded.size != self.elements:
            found_text = f"{loaded.dtype} of {loaded.size}" if isinstance(loaded, np.ndarray) else "an archive"
            raise AcceleratorError(f"{self.file}: needed {self.elements} integers, found {found_text}")
        return loaded.reshape(-1).astype(np.int64)


@dataclass(frozen=True)
class Feed:
    """An input of the device: matrix `value` [rows, channels] gathered from ONNX tensor `tensor`."""

    value: str
    tensor: str
    rows: int
    channels: int
    type: NumberType
    offset: int
    words: int
    source: Source
    excluded: bool


@dataclass(frozen=True)
class Fetch:
    """An output of the device: ONNX tensor `tensor` of `shape` gathered from matrix `value` [rows, channels]."""

    value: str
    tensor: str
    rows: int
    channels: int
    type: NumberType
    offset: int
    words: int
    source: Source
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """The regions of the accelerator's memory, in words of `lanes` bytes."""

    words: int
    input_offset: int
    input_words: int
    constant_offset: int
    constant_words: int
    output_offset: int
    output_words: int


@dataclass(frozen=True)
class Manifest:
    """A build folder as its manifest describes it; `data` is the whole file."""

    folder: Path
    name: str
    lanes: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    leading: Path | None
    trailing: Path | None
    feeds: tuple[Feed, ...]
    fetches: tuple[Fetch, ...]
    memory: Memory
    data: dict[str, Any]

    @property
    def input_bytes(self) -> int:
        """Bytes of one sample in the input region."""
        return self.memory.input_words * self.lanes

    @property
    def output_bytes(self) -> int:
        """Bytes of one sample in the output region."""
        return self.memory.output_words * self.lanes


def load(folder: str | os.PathLike[str], verify: bool = False) -> Manifest:
    """Read `manifest.json` of a build folder and check every field and file; with `verify` the checksums too."""
    root = Path(folder)
    if not root.is_dir():
        raise AcceleratorError(f"{root}: no such build folder" if not root.exists() else f"{root}: is no folder; a build folder is needed")
    path = root / "manifest.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AcceleratorError(f"{root}: is no build of attnc: it has no manifest.json") from None
    except OSError as error:
        raise AcceleratorError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AcceleratorError(f"{path}: not valid JSON, the build folder is damaged: {error}") from error
    reader = _Reader(data, root, str(path), "")
    schema = reader.integer("schema", 0)
    if schema != SCHEMA:
        raise AcceleratorError(f"{path}: field 'schema': this runtime reads version {SCHEMA}, found {schema}; compile the model again")
    manifest = _manifest(reader, root)
    check_files(reader, root, verify)
    return manifest


def _manifest(reader: _Reader, root: Path) -> Manifest:
    lanes = reader.child("design").integer("lanes", 1, 4096)
    if lanes & (lanes - 1):
        reader.fail("design.lanes", "a power of two", lanes)
    memory = _memory(reader.child("memory"))
    host = reader.child("host")
    manifest = Manifest(
        folder=root,
        name=reader.text("name"),
        lanes=lanes,
        inputs=tuple(_port(entry) for entry in reader.children("inputs")),
        outputs=tuple(_port(entry) for entry in reader.children("outputs")),
        leading=host.path("leading", optional=True),
        trailing=host.path("trailing", optional=True),
        feeds=tuple(_feed(entry, lanes, memory) for entry in reader.children("feeds")),
        fetches=tuple(_fetch(entry, lanes, memory) for entry in reader.children("fetches")),
        memory=memory,
        data=reader.data,
    )
    for what, ports in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if len({port.name for port in ports}) != len(ports):
            reader.fail(what, "different names", [port.name for port in ports])
    return manifest


def _memory(reader: _Reader) -> Memory:
    names = ("words", "input_offset", "input_words", "constant_offset", "constant_words", "output_offset", "output_words")
    memory = Memory(**{name: reader.integer(name, 0) for name in names})
    for region in ("input", "constant", "output"):
        end = getattr(memory, f"{region}_offset") + getattr(memory, f"{region}_words")
        if end > memory.words:
            reader.fail(f"{region}_words", f"a region that ends at word {memory.words} or before", end)
    return memory


def _port(reader: _Reader) -> Port:
    shape = reader.shape("shape")
    batched = reader.flag("batched")
    if batched and not shape:
        reader.fail("shape", "an axis for the samples", list(shape))
    return Port(reader.text("name"), reader.dtype("dtype"), shape, batched)


def _type(reader: _Reader, channels: int) -> NumberType:
    bits, signed = reader.integer("bits", 1, 16), reader.flag("signed")
    try:
        scale = np.asarray(reader.get("scale"), np.float64)
    except (TypeError, ValueError):
        reader.fail("scale", "a number, or a number per channel", reader.get("scale"))
    if scale.shape not in ((), (channels,)) or not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        reader.fail("scale", f"a positive number, or one for each of {channels} channels", reader.get("scale"))
    number_type = NumberType(bits, signed, scale, 0)
    return NumberType(bits, signed, scale, reader.integer("zero_point", *number_type.range))


def _matrix(reader: _Reader, lanes: int, start: int, words: int) -> dict[str, Any]:
    """The fields that a feed and a fetch share; the matrix must lie in the region of `words` words at `start`."""
    rows, channels = reader.integer("rows", 1), reader.integer("channels", 1)
    if rows * channels > MAX_ELEMENTS:
        reader.fail("rows", f"at most {MAX_ELEMENTS} elements", rows * channels)
    number_type = _type(reader.child("type"), channels)
    offset, size = reader.integer("offset", 0), reader.integer("words", 1)
    needed = layout.words(rows, channels, lanes, number_type.size)
    if size != needed:
        reader.fail("words", f"{needed} words for {rows} x {channels} elements of {number_type.bits} bits", size)
    if offset < start or offset + size > start + words:
        reader.fail("offset", f"a place inside the region of {words} words at {start}", offset)
    names = {"value": reader.text("value"), "tensor": reader.text("tensor")}
    return {**names, "rows": rows, "channels": channels, "type": number_type, "offset": offset, "words": size}


def _feed(reader: _Reader, lanes: int, memory: Memory) -> Feed:
    fields = _matrix(reader, lanes, memory.input_offset, memory.input_words)
    source = _source(reader.child("source"), fields["rows"] * fields["channels"], None)
    return Feed(**fields, source=source, excluded=reader.flag("excluded"))


def _fetch(reader: _Reader, lanes: int, memory: Memory) -> Fetch:
    fields = _matrix(reader, lanes, memory.output_offset, memory.output_words)
    shape = reader.shape("shape")
    return Fetch(**fields, shape=shape, source=_source(reader.child("source"), math.prod(shape), fields["rows"] * fields["channels"]))


def _source(reader: _Reader, elements: int, size: int | None) -> Source:
    """A source of `elements` positions, all of them below `size` where that is known."""
    if "file" in reader.data:
        return Source(elements, file=reader.path("file"))
    offset, counts, strides = reader.integer("offset", 0), reader.integers("counts", 1), reader.integers("strides", None)
    if len(counts) != len(strides):
        reader.fail("strides", f"{len(counts)} numbers, one for each count", list(strides))
    if math.prod(counts) != elements:
        reader.fail("counts", f"counts whose product is {elements}", list(counts))
    ends = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    low, high = offset + sum(min(end, 0) for end in ends), offset + sum(max(end, 0) for end in ends)
    if low < 0 or (size is not None and high >= size):
        reader.fail("strides", f"positions from 0 to below {size if size is not None else 'the size of the tensor'}", f"{low} to {high}")
    return Source(elements, offset, counts, strides)


def check_files(reader: _Reader, root: Path, verify: bool) -> None:
    """Every file that the manifest lists is there, has its size and, with `verify`, its checksum.

    The sources in `hls` may be edited: whether they still compute the same is for the simulation to say.
    """
    files = reader.child("files")
    for name in files.data:
        entry = files.child(name)
        path = reader.inside(name, f"files[{name!r}]")
        size, checksum = entry.integer("bytes", 0), entry.text("sha256")
        if not path.is_file():
            raise AcceleratorError(f"{root}: the file {name!r} is missing, the build folder is damaged; compile the model again")
        found = path.stat().st_size
        source = name.startswith("hls/") and not name.startswith("hls/data/")
        if found != size and (verify or not source):
            raise AcceleratorError(f"{path}: needed {size} bytes, found {found}: the build folder is damaged; compile the model again")
        if verify and sha256(path) != checksum:
            raise AcceleratorError(f"{path}: the checksum differs from the manifest's: the file was changed after the model was compiled")


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            block = file.read(1 << 20)
            if not block:
                return digest.hexdigest()
            digest.update(block)


class _Reader:
    """An object of the manifest, with getters that name file and field when they fail."""

    def __init__(self, data: Any, root: Path, file: str, where: str) -> None:
        if not isinstance(data, dict):
            raise AcceleratorError(f"{file}: field {where or '(top)'!r}: needed an object, found {type(data).__name__}")
        self.data: dict[str, Any] = data
        self.root, self.file, self.where = root, file, where

    def name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def fail(self, key: str, needed: str, found: object) -> Any:
        text = repr(found)
        raise AcceleratorError(
            f"{self.file}: field {self.name(key)!r}: needed {needed}, found {text if len(text) < 80 else text[:77] + '...'}"
        )

    def get(self, key: str) -> Any:
        if key not in self.data:
            raise AcceleratorError(f"{self.file}: field {self.name(key)!r} is missing")
        return self.data[key]

    def integer(self, key: str, low: int | None = None, high: int = (1 << 62)) -> int:
        found = self.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            self.fail(key, "a whole number", found)
        if (low is not None and found < low) or found > high:
            self.fail(key, f"a whole number from {low} to {high}" if high < 1 << 62 else f"a whole number of {low} or more", found)
        return int(found)

    def integers(self, key: str, low: int | None) -> tuple[int, ...]:
        found = self.get(key)
        valid = isinstance(found, list) and all(isinstance(i, int) and not isinstance(i, bool) and abs(i) <= 1 << 40 for i in found)
        if not valid or (low is not None and any(i < low for i in found)):
            self.fail(key, "a list of whole numbers" + ("" if low is None else f" of {low} or more"), found)
        return tuple(found)

    def shape(self, key: str) -> tuple[int, ...]:
        found = self.integers(key, 1)
        if math.prod(found) > MAX_ELEMENTS:
            self.fail(key, f"at most {MAX_ELEMENTS} elements", list(found))
        return found

    def flag(self, key: str) -> bool:
        found = self.get(key)
        if not isinstance(found, bool):
            self.fail(key, "true or false", found)
        return bool(found)

    def text(self, key: str) -> str:
        found = self.get(key)
        if not isinstance(found, str) or not found:
            self.fail(key, "a text", found)
        return str(found)

    def dtype(self, key: str) -> np.dtype[Any]:
        found = self.text(key)
        try:
            dtype = np.dtype(found)
        except (TypeError, ValueError):
            dtype = np.dtype(object)
        if dtype.kind not in "fiub":
            self.fail(key, "the name of a NumPy type of numbers", found)
        return dtype

    def path(self, key: str, optional: bool = False) -> Any:
        found = self.get(key)
        if found is None and optional:
            return None
        path = self.inside(self.text(key), self.name(key))
        if not path.is_file():
            raise AcceleratorError(f"{self.file}: field {self.name(key)!r}: the file {found!r} is missing from the build folder")
        return path

    def inside(self, name: str, where: str) -> Path:
        """The path of `name`, which must stay inside the build folder, links included."""
        pure = PurePosixPath(name)
        escapes = pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name or not pure.parts
        if not escapes:
            base, real = os.path.realpath(self.root), os.path.realpath(self.root / name)
            escapes = os.path.commonpath([base, real]) != base
        if escapes:
            raise AcceleratorError(f"{self.file}: field {where!r}: needed a path inside the build folder, found {name!r}")
        return self.root / name

    def child(self, key: str) -> _Reader:
        return _Reader(self.get(key), self.root, self.file, self.name(key))

    def children(self, key: str) -> list[_Reader]:
        found = self.get(key)
        if not isinstance(found, list) or not found:
            self.fail(key, "a list that is not empty", found)
        return [_Reader(entry, self.root, self.file, f"{self.name(key)}[{i}]") for i, entry in enumerate(found)]
