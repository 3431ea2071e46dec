"""What a kind of file is: how it is made from a model of `families.py`, and what it is compared with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from models import zoo

MODELS = ("bert", "distilbert", "vit", "gpt2", "llama", "whisper")


class Skipped(Exception):
    """There is no such file here, with the reason."""


@dataclass(frozen=True)
class Source:
    """A model to make files of: its exports are made once for all kinds."""

    model: str
    folder: Path

    def export(self, exporter: str = "dynamo", opset: int = 0, dynamic: bool = False, eager: bool = False) -> Path:
        """An export by torch as `zoo.export` makes it."""
        path = self.folder / f"{self.model}_{exporter}{opset or ''}{'_dynamic' if dynamic else ''}{'_eager' if eager else ''}.onnx"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                made = Path(scratch) / path.name
                zoo.export(self.model, exporter, made, opset, dynamic, eager)
                os.replace(made, path)
        return path

    def write_samples(self, path: Path, **more: np.ndarray) -> None:
        """Inputs to calibrate and to measure with, the same for all kinds of files, beside one (`.npz`, `.unseen.npz`); and `more`."""
        for suffix, count, seed in ((".npz", zoo.SEEN, 1), (".unseen.npz", zoo.UNSEEN, 2)):
            np.savez(path.with_suffix(suffix), **self._samples(self.folder / f"{self.model}{suffix}", count, seed), **more)  # type: ignore[arg-type]

    def _samples(self, path: Path, count: int, seed: int) -> dict[str, np.ndarray]:
        """Those of this model, made once."""
        if not path.exists():
            from models.families import FAMILIES
            from models.family import samples

            family = FAMILIES[self.model]
            names = dict.fromkeys([*family.inputs(), *(family.traced_inputs() if family.traced_inputs else ())])
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                np.savez(made := Path(scratch) / path.name, **samples(family, list(names), count, seed))  # type: ignore[arg-type]
                os.replace(made, path)
        with np.load(path) as saved:
            return dict(saved)


@dataclass(frozen=True)
class Kind:
    """A kind of file. `make` writes one at a path, of any name."""

    name: str
    make: Callable[[Source, Path], None]
    models: tuple[str, ...] = MODELS
    beside: str = "plain"
    """The kind whose SQNR this one's is compared with."""
    floating: Callable[[Source], Path] | None = None
    """Where the file says how every tensor is rounded, the float model that it was made of: golden is to be as near to that as onnxruntime
    running the file."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `CompileOptions`."""


def plain(source: Source, path: Path) -> None:
    """As torch writes it."""
    shutil.copy(source.export(), path)


PLAIN = Kind("plain", plain)
