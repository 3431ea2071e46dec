"""Mutants of everything that is no model: raw bytes, archives of arrays, settings, boards, schedules, build folders."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.models import FLOATS, NAMES, SIZES, Rng, pick

WORDS = (
    b"1e400", b".inf", b".nan", b"-1", b"0", b"null", b"true", b"[]", b"{}", b"1e-300", b"99999999999999999999", b"0x10", b"1:2:3",
    b"!!python/object:os.system x", b"&a [*a]", b"*a", b"'", b'"', b"\xff\xfe", b"\0", b"\x1b[31m", b"\t", b"? x", b"<<: *a", b"2001-99-99",
    b"!!binary xx", b"9" * 5000, b"---", b"\n", b"a: &a {b: c}\n", b"int4", b"ternary", b"auto", b"16", b"NaN", b"Infinity",
)  # fmt: skip


def flip(data: bytes, rng: Rng) -> bytes:
    """Bytes changed, lost, repeated or put in."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        if not changed:
            return b"x"
        at = int(rng.integers(len(changed)))
        action = rng.integers(5)
        if action < 2:
            changed[at] ^= 1 << int(rng.integers(8))
        elif action == 2:
            del changed[at : at + int(rng.integers(1, 64))]
        elif action == 3:
            changed[at:at] = rng.bytes(int(rng.integers(1, 16)))
        elif rng.integers(4) == 0:
            del changed[at:]
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 64))]
    return bytes(changed)


def settings(text: str, rng: Rng) -> bytes:
    """A YAML, TOML or JSON file whose values, keys or structure changed."""
    data = text.encode()
    for _ in range(int(rng.integers(1, 3))):
        lines = data.split(b"\n")
        at = int(rng.integers(len(lines)))
        action = rng.integers(8)
        if action <= 2 and (mark := max(lines[at].rfind(b": "), lines[at].rfind(b"= "))) >= 0:
            lines[at] = lines[at][: mark + 2] + pick(rng, (*WORDS, *(str(n).encode() for n in (*SIZES, *FLOATS))))
        elif action == 3:
            lines.insert(at, lines[at])
        elif action == 4:
            del lines[at]
        elif action == 5:
            lines.insert(at, pick(rng, WORDS) + b": " + pick(rng, WORDS))
        elif action == 6:
            return pick(
                rng,
                (b"[" * 100_000, b"{" * 5000 + b"}" * 5000, bomb(), b"", b"\xef\xbb\xbf" + data, text.encode("utf-16"), b"x" * (2 << 20)),
            )
        else:
            return flip(data, rng)
        data = b"\n".join(lines)
    return data


def bomb() -> bytes:
    """A billion laughs."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join([*lines, "layers: *a11", "name: *a11", "design: *a11"]).encode()


def archive(arrays: dict[str, np.ndarray], rng: Rng) -> bytes:
    """An .npz that fits the model no more, or is none, or claims more than it holds."""
    arrays = dict(arrays)
    name = pick(rng, list(arrays))
    found, action = arrays[name], rng.integers(9)
    if action == 0:
        arrays[name] = found.astype(pick(rng, ("f2", "f8", "i1", "i8", "u8", "c8", "S3", "U3", "?", "M8[s]")))
    elif action == 1:
        arrays[name] = found.reshape(pick(rng, ([-1], [1, *found.shape], [*found.shape, 1], [found.shape[0], -1])))
    elif action == 2:
        arrays[name] = found[tuple(slice(int(rng.integers(0, 3)), None) for _ in found.shape)]
    elif action == 3:
        changed = found.astype(np.float64) if rng.integers(2) else found.copy()
        with np.errstate(all="ignore"):
            changed.reshape(-1)[int(rng.integers(changed.size))] = np.array(pick(rng, FLOATS)).astype(changed.dtype)
        arrays[name] = changed
    elif action == 4:
        del arrays[name]
    elif action == 5:
        arrays[pick(rng, NAMES).replace("\0", "")] = found
    elif action == 6:
        return huge(name, pick(rng, ((1 << 29,), (1 << 22, *found.shape[1:]), (1 << 40,), (1 << 62, 4), (-1, 4), (1 << 20, 0))))
    stream = io.BytesIO()
    (np.savez if rng.integers(2) else np.savez_compressed)(stream, **arrays)  # type: ignore[operator]
    return flip(stream.getvalue(), rng) if action >= 7 else stream.getvalue()


def huge(name: str, shape: tuple[int, ...]) -> bytes:
    """An archive whose one array is zeros of that shape, as far as they go into 2 GiB."""
    stream, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made,
        made.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        left = min(max(0, int(np.prod(shape, dtype=float))) * 4, 64 << 20)
        for _ in range(left >> 20):
            file.write(bytes(1 << 20))
    return stream.getvalue()


def build(folder: Path, rng: Rng) -> str:
    """Something in a build folder, which is changed in place; its name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    telling = [path for path in files if path.suffix in (".json", ".npz", ".npy", ".onnx", ".bin", ".yaml")]
    path = pick(rng, telling if rng.integers(4) else files)
    action = rng.integers(6)
    if action == 0:
        path.unlink()
    elif action == 1:
        path.write_bytes(pick(rng, (b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b"9" * 5000)))
    elif path.suffix == ".json" and action <= 4:
        data = json.loads(path.read_bytes())
        for _ in range(int(rng.integers(1, 3))):
            _change(data, rng)
        path.write_text(json.dumps(data))
    else:
        path.write_bytes(flip(path.read_bytes(), rng))
    return path.relative_to(folder).as_posix()


def _change(data: Any, rng: Rng) -> None:
    """One value somewhere in nested lists and objects."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = pick(rng, keys)
        if not isinstance(data[key], dict | list) or not data[key] or rng.integers(5) == 0:
            break
        data = data[key]
    if rng.integers(5) == 0:
        del data[key]
    else:
        data[key] = pick(rng, (None, True, [], {}, "", "x", "../x", 1.5, *SIZES, *FLOATS, *NAMES, [data[key]], {"a": data[key]}))
