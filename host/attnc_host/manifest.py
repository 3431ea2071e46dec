"""The manifest of a build folder: read and checked before anything trusts it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attnc_host import layout
from attnc_host.caches import DECODE, Decoder, read_decoder
from attnc_host.errors import AcceleratorError
from attnc_host.fields import MAX_ELEMENTS, Fields
from attnc_host.integrity import check_files
from attnc_host.json_file import read_json
from attnc_host.registers import RegisterMap, read_registers

SCHEMA = 2


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
    keyless: bool
    """Of an attention bias: whether a query may have no key. Else the model itself gives NaN then."""


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
class Program:
    """What the accelerator runs: the number of steps, the node behind each run of steps, cycles of a sample (estimate) at a clock."""

    steps: int
    nodes: tuple[tuple[str, int], ...]
    cycles: int
    clock_mhz: float

    @property
    def seconds(self) -> float:
        """Of one sample, estimated."""
        return self.cycles / self.clock_mhz / 1e6

    def node(self, step: int) -> str:
        """What a step works on."""
        for name, count in self.nodes:
            if step < count:
                return name
            step -= count
        return "nothing"


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
    registers: RegisterMap
    program: Program
    data: dict[str, Any]
    decoder: Decoder | None = None

    @property
    def top(self) -> str:
        """Name of the accelerator in hardware."""
        return str(self.data.get("top", ""))

    @property
    def input_bytes(self) -> int:
        """Bytes of one sample in the input region."""
        return self.memory.input_words * self.lanes

    @property
    def output_bytes(self) -> int:
        """Bytes of one sample in the output region."""
        return self.memory.output_words * self.lanes


def load(folder: str | os.PathLike[str] | Manifest, verify: bool = True, edited: bool = False) -> Manifest:
    """Read `manifest.json` of a build folder and check every field and file, with `verify` their checksums too. Sources in `hls` may be
    `edited`, where the caller compares what they compute with golden. A manifest that was loaded before is taken as it is."""
    if isinstance(folder, Manifest):
        return folder
    root = Path(folder)
    if not root.is_dir():
        raise AcceleratorError(f"{root}: no such build folder" if not root.exists() else f"{root}: is no folder; a build folder is needed")
    path = root / "manifest.json"
    if not path.exists():
        raise AcceleratorError(f"{root}: is no build of attnc: it has no manifest.json")
    data = read_json(path)
    fields = Fields(data, root, str(path), "")
    schema = fields.integer("schema", 0)
    if schema != SCHEMA:
        raise AcceleratorError(f"{path}: field 'schema': this runtime reads version {SCHEMA}, found {schema}; compile the model again")
    manifest = _manifest(fields, root)
    check_files(fields, root, verify, edited)
    return manifest


def _manifest(fields: Fields, root: Path) -> Manifest:
    lanes = fields.child("design").integer("lanes", 1, 4096)
    if lanes & (lanes - 1):
        fields.fail("design.lanes", "a power of two", lanes)
    memory = _memory(fields.child("memory"))
    host = fields.child("host")
    manifest = Manifest(
        folder=root,
        name=fields.text("name"),
        lanes=lanes,
        inputs=tuple(_port(entry) for entry in fields.children("inputs")),
        outputs=tuple(_port(entry) for entry in fields.children("outputs")),
        leading=host.path("leading", optional=True),
        trailing=host.path("trailing", optional=True),
        feeds=tuple(_feed(entry, lanes, memory) for entry in fields.children("feeds")),
        fetches=tuple(_fetch(entry, lanes, memory) for entry in fields.children("fetches")),
        memory=memory,
        registers=read_registers(fields.child("registers")),
        program=_program(fields),
        data=fields.data,
        decoder=read_decoder(fields.child("decoder"), memory.words) if "decoder" in fields.data else None,
    )
    if manifest.decoder is not None:
        names = {feed.value for feed in manifest.feeds}
        for entry in manifest.decoder.entries.values():
            if entry.input not in names:
                fields.fail("decoder.entries", f"an input out of {sorted(names)}", entry.input)
        _check_outputs(fields, manifest.fetches, manifest.decoder)
    for what, ports in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if len({port.name for port in ports}) != len(ports):
            fields.fail(what, "different names", [port.name for port in ports])
    return manifest


def _check_outputs(fields: Fields, fetches: tuple[Fetch, ...], decoder: Decoder) -> None:
    """Entries give logits, or what the host makes them of, in its order."""
    found, head = {fetch.value: fetch.channels for fetch in fetches}, decoder.head
    needed = None if head is None else [head.channels, *([] if head.peak is None else [1])]
    read = None if head is None else (head.input, *([] if head.peak is None else [head.peak]))
    if read is not None and decoder.entries[DECODE].outputs != read:
        fields.fail("decoder.head", f"values {decoder.entries[DECODE].outputs} to read", read)
    for name, entry in decoder.entries.items():
        if not entry.outputs:
            continue
        channels = [found.get(value) for value in entry.outputs]
        if needed is None and (len(channels) != 1 or None in channels):
            fields.fail("fetches", f"one output of {name!r}, the logits {entry.outputs}", sorted(found))
        if needed is not None and channels != needed:
            fields.fail("fetches", f"what decoder.head reads of {name!r}", found)


def _program(fields: Fields) -> Program:
    program, clock = fields.child("program"), fields.child("target").get("clock_mhz")
    steps, nodes = program.integer("instructions", 1, (1 << 31) - 1), program.get("nodes")
    if isinstance(clock, bool) or not isinstance(clock, (int, float)) or not 0 < clock < 1e6:
        fields.fail("target.clock_mhz", "a clock in MHz", clock)
    if not isinstance(nodes, list):
        program.fail("nodes", "a list", nodes)
    pairs = [p for p in nodes if isinstance(p, list) and len(p) == 2 and isinstance(p[0], str) and type(p[1]) is int]  # no bool
    if len(pairs) < len(nodes) or sum(count for _, count in pairs) != steps:
        program.fail("nodes", f"names with numbers of steps, {steps} in all", nodes)
    return Program(steps, tuple((name, count) for name, count in nodes), fields.child("estimate").integer("cycles", 1), float(clock))


def _memory(fields: Fields) -> Memory:
    names = ("words", "input_offset", "input_words", "constant_offset", "constant_words", "output_offset", "output_words")
    memory = Memory(**{name: fields.integer(name, 0) for name in names})
    for region in ("input", "constant", "output"):
        end = getattr(memory, f"{region}_offset") + getattr(memory, f"{region}_words")
        if end > memory.words:
            fields.fail(f"{region}_words", f"a region that ends at word {memory.words} or before", end)
    return memory


def _port(fields: Fields) -> Port:
    shape = fields.shape("shape", 0)
    batched = fields.flag("batched")
    if batched and not shape:
        fields.fail("shape", "an axis for the samples", list(shape))
    return Port(fields.text("name"), fields.dtype("dtype"), shape, batched)


def _type(fields: Fields, channels: int) -> NumberType:
    bits, signed = fields.integer("bits", 1, 16), fields.flag("signed")
    try:
        scale = np.asarray(fields.get("scale"), np.float64)
    except (TypeError, ValueError):
        fields.fail("scale", "a number, or a number per channel", fields.get("scale"))
    if scale.shape not in ((), (channels,)) or not np.all(np.isfinite(scale)) or not np.all(scale > 0):
        fields.fail("scale", f"a positive number, or one for each of {channels} channels", fields.get("scale"))
    number_type = NumberType(bits, signed, scale, 0)
    return NumberType(bits, signed, scale, fields.integer("zero_point", *number_type.range))


def _matrix(fields: Fields, lanes: int, start: int, words: int) -> dict[str, Any]:
    """The fields that a feed and a fetch share; the matrix must lie in the region of `words` words at `start`."""
    rows, channels = fields.integer("rows", 1), fields.integer("channels", 1)
    if rows * channels > MAX_ELEMENTS:
        fields.fail("rows", f"at most {MAX_ELEMENTS} elements", rows * channels)
    number_type = _type(fields.child("type"), channels)
    offset, size = fields.integer("offset", 0), fields.integer("words", 1)
    needed = layout.words(rows, channels, lanes, number_type.size)
    if size != needed:
        fields.fail("words", f"{needed} words for {rows} x {channels} elements of {number_type.bits} bits", size)
    if offset < start or offset + size > start + words:
        fields.fail("offset", f"a place inside the region of {words} words at {start}", offset)
    names = {"value": fields.text("value"), "tensor": fields.text("tensor")}
    return {**names, "rows": rows, "channels": channels, "type": number_type, "offset": offset, "words": size}


def _feed(fields: Fields, lanes: int, memory: Memory) -> Feed:
    matrix = _matrix(fields, lanes, memory.input_offset, memory.input_words)
    source = _source(fields.child("source"), matrix["rows"] * matrix["channels"], None)
    return Feed(**matrix, source=source, excluded=fields.flag("excluded"), keyless=fields.flag("keyless"))


def _fetch(fields: Fields, lanes: int, memory: Memory) -> Fetch:
    matrix = _matrix(fields, lanes, memory.output_offset, memory.output_words)
    shape = fields.shape("shape")
    return Fetch(**matrix, shape=shape, source=_source(fields.child("source"), math.prod(shape), matrix["rows"] * matrix["channels"]))


def _source(fields: Fields, elements: int, size: int | None) -> Source:
    """A source of `elements` positions, all of them below `size` where that is known."""
    if "file" in fields.data:
        return Source(elements, file=fields.path("file"))
    offset, counts, strides = fields.integer("offset", 0), fields.integers("counts", 1), fields.integers("strides", None)
    if len(counts) != len(strides):
        fields.fail("strides", f"{len(counts)} numbers, one for each count", list(strides))
    if math.prod(counts) != elements:
        fields.fail("counts", f"counts whose product is {elements}", list(counts))
    ends = [(count - 1) * stride for count, stride in zip(counts, strides, strict=True)]
    low, high = offset + sum(min(end, 0) for end in ends), offset + sum(max(end, 0) for end in ends)
    if low < 0 or (size is not None and high >= size):
        fields.fail("strides", f"positions from 0 to below {size if size is not None else 'the size of the tensor'}", f"{low} to {high}")
    return Source(elements, offset, counts, strides)
