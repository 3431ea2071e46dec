"""What passes the streams of a build while its C++ runs on the first of its vectors (sim/attnc_record.h)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from attnc.arrays import Array
from attnc.errors import BuildError
from attnc.vendor.tool import copy_sources
from attnc.verify.simulator import build_simulator
from attnc_host.manifest import Manifest

KEPT = 1 << 20
"""Bytes of a stream, over all that have its name, up to which they are kept."""
Recording = Mapping[str, Sequence[Array]]
"""Bytes [tokens, bytes per token] of every stream, by "owner.name", in the order in which the streams of a name ended."""


def record(manifest: Manifest) -> Recording:
    """Raises `BuildError` where the C++ does not compile, or gives what golden does not."""
    with tempfile.TemporaryDirectory(prefix="attnc-record-") as temporary:
        folder, kept = Path(temporary) / "hls", Path(temporary) / "record.bin"
        folder.mkdir()
        copy_sources(manifest, folder, one_sample=True)
        program = build_simulator(folder, "native", f"-O1 -DATTNC_RECORD={KEPT}")
        env = {**os.environ, "ATTNC_RECORD_FILE": str(kept)}
        done = subprocess.run([program, folder / "data"], env=env, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise BuildError(f"the C++ of {manifest.folder} does not do what golden does (`attnc csim` says where): {said}")
        return _read(kept)


def _read(path: Path) -> Recording:
    found: dict[str, list[Array]] = {}
    with open(path, "rb") as file:
        while line := file.readline():
            name, tokens, size = line.decode().split()
            data = np.frombuffer(file.read(int(tokens) * int(size)), np.uint8)
            found.setdefault(name, []).append(data.reshape(int(tokens), int(size)))
    return found


def numbers(tokens: Array, bits: int, signed: bool) -> Array:
    """The lanes of tokens, [tokens, lanes], as integers: each lies in the narrowest native type of at least `bits` bits."""
    size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    return np.ascontiguousarray(tokens).view(f"<{'i' if signed else 'u'}{size}").astype(np.int64)
