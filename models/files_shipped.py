"""Real files that packages carry. They are no extra of attnc, since what some ask for (numpy below 2, protobuf below 7) does not go with
what it needs, and nothing of them is run but their file: pip installs the pinned packages by themselves, each into a folder of its own of
the environment (`SHIPPED`), where the next run finds them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import files_fused, files_quantized
from models.file_kinds import Kind, Skipped, Source
from models.small import signals, speech

TOKENS = 32
SHIPPED = Path(sys.prefix) / "shipped"


@dataclass(frozen=True)
class Shipped:
    """A file in a package, the package's checksum, the shapes of the file's inputs for one sample, and bounds of those that hold numbers
    of tokens."""

    package: str
    sha256: str
    file: str
    shapes: dict[str, tuple[int, ...]]
    bounds: dict[str, int]


FILES = {
    "khmersm": Shipped(
        "khmersm==1.4.2", "62d198b369179b5ae3c6601b11f7633cc062f2dd120bf95eb911d80911684e16", "khmersm/model.onnx",
        {"x": (1, TOKENS), "mask": (1, TOKENS)}, {"x": 80},
    ),
    "romanizer": Shipped(
        "arabic-name-romanizer==0.2.0", "f70b89614d9b5866dcf911d098c5e45d2b1f559461f238e8c5259b731fcf2a7e",
        "arabic_name_romanizer/resources/decoder.onnx",
        {"prefix": (1, 6), "memory": (1, 16, 256), "src_mask": (1, 16), "hidden": (1, 2, 256)}, {"prefix": 100},
    ),
    "pp-ocr": Shipped(
        "rapidocr-onnxruntime==1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}, {},
    ),
    "smart-turn": Shipped(
        "pipecat-ai==1.14.0", "0352f504b44e78bdf524e45af4bc759601c835b9b7dc195efe5e03384b974a44",
        "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", {"input_features": (1, 80, 800)}, {},
    ),
}  # fmt: skip


def shipped(source: Source, path: Path) -> None:
    """The file as it is, with random samples."""
    entry = FILES[source.model]
    file = installed(entry) / entry.file
    for beside in file.parent.glob(f"{file.name}*"):  # weights may lie beside, under a name that the file says
        shutil.copy(beside, path if beside == file else path.parent)
    for suffix, seed, count in ((".npz", 1, 16), (".unseen.npz", 2, 8)):
        np.savez(path.with_suffix(suffix), **_samples(entry, path, seed, count))


def installed(entry: Shipped) -> Path:
    """The folder with a package, without what it depends on: as an earlier run has left it, or pip installs it now."""
    folder = SHIPPED / entry.package
    if (folder / entry.file).is_file():
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        pinned = Path(scratch) / "requirements.txt"
        pinned.write_text(f"{entry.package} --hash=sha256:{entry.sha256}\n")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile"]
        done = subprocess.run([*command, "--target", str(folder), "--requirement", str(pinned)], capture_output=True, text=True)
    if done.returncode or not (folder / entry.file).is_file():
        raise Skipped(f"pip does not get {entry.package}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return folder


def _samples(entry: Shipped, path: Path, seed: int, count: int) -> dict[str, np.ndarray]:
    """Numbers of tokens, masks with padding at the end of all samples but the first, spectra, pictures and other signals."""
    import onnx

    rng = np.random.default_rng(seed)
    graph = onnx.load(path, load_external_data=False).graph
    types = {value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input}
    made: dict[str, Any] = {}
    for name, own in entry.shapes.items():
        shape = (count, *own[1:])
        if name in entry.bounds:
            made[name] = rng.integers(3, entry.bounds[name], shape).astype(types[name])
        elif "mask" in name:
            lengths = np.where(np.arange(count) == 0, own[1], rng.integers(own[1] // 2, own[1] + 1, count))
            made[name] = (np.arange(own[1]) < lengths[:, None]).astype(types[name])
        else:
            made[name] = (speech if name == "input_features" else signals)(rng, shape)
    return made


def _exported(source: Source) -> Path:
    return source.folder / "minilm.onnx"


def minilm(source: Source, path: Path, optimized: bool = False, quantized: str = "") -> None:
    """all-MiniLM-L6-v2 out of the package of the extra `zoo`, plain, after onnxruntime's optimizer, or `quantized` as a kind of
    `files_quantized.py` is (one that needs no samples), on random tokens."""
    try:
        from models.minilm.export import export
    except ImportError as error:
        raise Skipped(f"the extra `zoo` is not installed ({error.name})") from error
    plain = _exported(source)
    if not plain.exists():
        export(plain)
    if optimized:
        files_fused.optimize(plain, path, "bert", 12, 384)
    elif quantized:
        files_quantized.WRITERS[quantized](plain, path, {})
    else:
        for file in source.folder.glob("minilm.onnx*"):
            shutil.copy(file, path.parent / file.name)
        shutil.move(path.parent / "minilm.onnx", path)
    ids = {"input_ids": (1, TOKENS), "attention_mask": (1, TOKENS), "token_type_ids": (1, TOKENS)}
    entry = Shipped("", "", "", ids, {"input_ids": 30000, "token_type_ids": 4})
    for suffix, seed, count in ((".npz", 1, 16), (".unseen.npz", 2, 8)):
        made = _samples(entry, path, seed, count)
        np.savez(path.with_suffix(suffix), **{**made, "token_type_ids": made["token_type_ids"] - 3})


KINDS = [
    Kind("shipped", shipped, tuple(FILES), "shipped"),
    Kind("minilm", minilm, ("minilm",), "minilm"),
    Kind("minilm-fused", functools.partial(minilm, optimized=True), ("minilm",), "minilm"),
    Kind("minilm-dynamic", functools.partial(minilm, quantized="dynamic-s8"), ("minilm",), "minilm", _exported),
    Kind("minilm-nbits4", functools.partial(minilm, quantized="nbits4-zero-32"), ("minilm",), "minilm"),
]
