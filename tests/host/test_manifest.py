"""A damaged or hostile build folder is refused, naming file and field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnc_host import AcceleratorError, integrity, manifest
from attnc_host.integrity import sha256
from small_build import write_small_build


def test_loads(shared_build: Path) -> None:
    found = manifest.load(shared_build, verify=True)
    assert found.lanes == 4 and [port.name for port in found.inputs] == ["x"] and found.outputs[0].shape == (1, 4, 5)
    assert found.leading is None and found.input_bytes == found.memory.input_words * 4


def change(build: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((build / "manifest.json").read_text())
    edit(data)
    (build / "manifest.json").write_text(json.dumps(data))


def test_every_field_is_needed(build: Path) -> None:
    """Taking away any field that the runtime reads is noticed, and the message names it."""
    original = (build / "manifest.json").read_text()
    paths = [
        "schema",
        "name",
        "inputs",
        "outputs",
        "host",
        "host.leading",
        "feeds",
        "fetches",
        "memory",
        "memory.words",
        "memory.output_words",
    ]
    paths += ["design", "design.lanes", "files", "checksum", "registers", "estimate.cycles", "target.clock_mhz"]
    paths += ["program.instructions", "program.nodes"]
    paths += [f"registers.{key}" for key in ("protocol", "identity", "bytes", "arguments", "arguments.0.name", "arguments.1.memory")]
    paths += [f"inputs.0.{key}" for key in ("name", "dtype", "shape", "batched")]
    paths += [
        f"feeds.0.{key}"
        for key in ("value", "tensor", "rows", "channels", "type", "type.scale", "offset", "words", "source", "excluded", "keyless")
    ]
    paths += [f"fetches.0.{key}" for key in ("value", "tensor", "shape", "type.zero_point", "source.counts")]
    for path in paths:
        data = json.loads(original)
        *parents, last = path.split(".")
        place = data
        for key in parents:
            place = place[int(key)] if key.isdigit() else place[key]
        del place[last]
        (build / "manifest.json").write_text(json.dumps(data))
        with pytest.raises(AcceleratorError, match=rf"manifest.json: field '.*{last}' is missing"):
            manifest.load(build)


EDITS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.update(schema=1), "reads version 2, found 1"),
    (lambda d: d.update(schema="1"), "needed a whole number, found '1'"),
    (lambda d: d.update(schema=True), "needed a whole number, found True"),
    (lambda d: d["design"].update(lanes=3), "a power of two"),
    (lambda d: d["design"].update(lanes=0), "from 1 to 4096, found 0"),
    (lambda d: d["inputs"].clear(), "a list that is not empty"),
    (lambda d: d["inputs"].append(d["inputs"][0]), "different names"),
    (lambda d: d["inputs"][0].update(dtype="object"), r"inputs\[0\].dtype"),
    (lambda d: d["inputs"][0].update(dtype="nonsense"), "NumPy type of numbers, found 'nonsense'"),
    (lambda d: d["inputs"][0].update(shape=[1, -4, 6]), r"inputs\[0\].shape"),
    (lambda d: d["inputs"][0].update(shape=[1 << 20, 1 << 20]), "elements"),
    (lambda d: d["inputs"][0].update(batched=1), "true or false, found 1"),
    (lambda d: d["feeds"][0].update(rows=1 << 40), "elements"),
    (lambda d: d["feeds"][0].update(words=3), "needed 8 words for 4 x 6 elements of 8 bits, found 3"),
    (lambda d: d["feeds"][0].update(offset=1), "a place inside the region"),
    (lambda d: d["feeds"][0]["type"].update(bits=17), "from 1 to 16, found 17"),
    (lambda d: d["feeds"][0]["type"].update(scale=0), "a positive number"),
    (lambda d: d["feeds"][0]["type"].update(scale=[0.1, 0.2]), "each of 6 channels"),
    (lambda d: d["feeds"][0]["type"].update(scale="big"), "feeds.*scale"),
    (lambda d: d["feeds"][0]["type"].update(zero_point=128), "from -128 to 127, found 128"),
    (lambda d: d["feeds"][0]["source"].update(counts=[5], strides=[1]), "product is 24"),
    (lambda d: d["feeds"][0]["source"].update(strides=[]), "numbers, one for each count"),
    (lambda d: d["feeds"][0]["source"].update(counts=[24], strides=[-1]), "positions from 0"),
    (lambda d: d["fetches"][0]["source"].update(counts=[20], strides=[2]), "below 20"),
    (lambda d: d["memory"].update(words=1), "ends at word 1"),
    (lambda d: d["host"].update(leading="../../etc/passwd"), "inside the build folder"),
    (lambda d: d["host"].update(leading="/etc/passwd"), "inside the build folder"),
    (lambda d: d["host"].update(leading="host/none.onnx"), "missing from the build folder"),
    (lambda d: d["feeds"][0].update(source={"file": "..\\x.npy"}), "inside the build folder"),
    (lambda d: d["files"].update({"../x": {"sha256": "0", "bytes": 1}}), "inside the build folder"),
    (lambda d: d["files"].update({"gone.bin": {"sha256": "0", "bytes": 1}}), "'gone.bin' is missing"),
    (lambda d: d.update(memory=[]), "needed an object, found list"),
]


@pytest.mark.parametrize(("edit", "message"), EDITS, ids=range(len(EDITS)))
def test_damage(build: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    change(build, edit)
    with pytest.raises(AcceleratorError, match=message):
        manifest.load(build)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000])
def test_no_json(build: Path, text: str) -> None:
    (build / "manifest.json").write_text(text)
    with pytest.raises(AcceleratorError, match=r"manifest\.json"):
        manifest.load(build)


def test_no_build(tmp_path: Path) -> None:
    with pytest.raises(AcceleratorError, match="no such build folder"):
        manifest.load(tmp_path / "none")
    with pytest.raises(AcceleratorError, match=r"no build of attnc: it has no manifest.json"):
        manifest.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AcceleratorError, match="is no folder"):
        manifest.load(tmp_path / "file")


def test_links_do_not_leave_the_folder(build: Path) -> None:
    os.symlink("/etc/hostname", build / "host.onnx")
    change(build, lambda d: d["host"].update(leading="host.onnx"))
    with pytest.raises(AcceleratorError, match="inside the build folder"):
        manifest.load(build)


def flip(path: Path, at: int) -> None:
    """One bit of a file, in place."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_one_bit_of_any_file(build: Path) -> None:
    """Whatever an answer depends on: weights, program, constants, golden, sources, headers, host graphs, vectors."""
    names = [name for name, entry in json.loads((build / "manifest.json").read_text())["files"].items() if entry["bytes"]]
    kinds = {"hls/attnc_top.cpp", "hls/include/attnc/linear.hpp", "hls/data/program.bin", "weights/weights.bin", "golden/params.npz"}
    assert kinds <= set(names)
    for name in names:
        at = (build / name).stat().st_size // 2
        flip(build / name, at)
        with pytest.raises(AcceleratorError, match=rf"{name}: the checksum differs"):
            manifest.load(build)
        manifest.load(build, verify=False)
        if name.startswith("hls/") and "/data/" not in name:
            manifest.load(build, edited=True)
        flip(build / name, at)
    manifest.load(build)


def test_hard_links_are_read_once_and_named_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, read = write_small_build(tmp_path / "build"), []
    monkeypatch.setattr(integrity, "sha256", lambda path: read.append(path) or sha256(path))
    manifest.load(build)
    assert len(read) == len({path.stat().st_ino for path in read}) < len(json.loads((build / "manifest.json").read_text())["files"])
    flip(build / "hls" / "data" / "weights.bin", 0)
    with pytest.raises(AcceleratorError, match=r"weights.bin: the checksum differs"):
        manifest.load(build)


EDITED: list[Callable[[dict[str, Any]], object]] = [
    lambda d: d["feeds"][0]["type"].update(scale=0.031),
    lambda d: d["feeds"][0].update(excluded=True),
    lambda d: d["fetches"][0]["type"].update(zero_point=1),
    lambda d: d["files"].pop("weights/weights.bin"),
    lambda d: d.update(checksum="0" * 64),
]


@pytest.mark.parametrize("edit", EDITED, ids=range(len(EDITED)))
def test_the_manifest_has_a_checksum_of_its_own(build: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    change(build, lambda d: None)
    manifest.load(build)  # another layout of the same JSON
    change(build, edit)
    with pytest.raises(AcceleratorError, match=r"manifest.json: the checksum of its fields differs: it was changed"):
        manifest.load(build)
    manifest.load(build, verify=False)


def test_sizes(build: Path) -> None:
    weights = build / "weights" / "weights.bin"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    for verify in (True, False):
        with pytest.raises(AcceleratorError, match=rf"needed {len(data)} bytes, found {len(data) - 1}"):
            manifest.load(build, verify=verify)
