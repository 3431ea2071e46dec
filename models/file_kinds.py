"""What a kind of file is: how it is made from a model of `families.py`, and what it is compared with."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import zoo

MODELS = ("bert", "distilbert", "vit", "gpt2", "llama", "whisper")


@dataclass(frozen=True)
class Source:
    """A model to make files of: its exports are made once for all kinds."""

    model: str
    folder: Path

    def export(self, exporter: str = "dynamo", opset: int = 0, dynamic: bool = False) -> Path:
        """The plain export by torch, with samples beside it (`.npz`, `.unseen.npz`); `dynamic`: batch and tokens are symbols."""
        path = self.folder / f"{self.model}_{exporter}{opset or ''}{'_dynamic' if dynamic else ''}.onnx"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                made = Path(scratch) / path.name
                zoo.export(self.model, exporter, made, opset, dynamic)
                for file in sorted(Path(scratch).iterdir(), reverse=True):  # the samples first: the model says that all is there
                    os.replace(file, self.folder / file.name)
        return path


@dataclass(frozen=True)
class Kind:
    """A kind of file. `make` writes one at a path, of any name."""

    name: str
    make: Callable[[Source, Path], None]
    models: tuple[str, ...] = MODELS
    beside: str = "plain"
    """The kind whose SQNR this one's is compared with."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of `CompileOptions`."""


def plain(source: Source, path: Path) -> None:
    """As torch writes it."""
    shutil.copy(source.export(), path)


PLAIN = Kind("plain", plain)
