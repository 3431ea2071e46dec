"""What a search knows, on disk: it survives an interruption, and serves the next budget.

A folder with `state.json` (estimates, measurements, a checksum of itself) and the integers of every format of every layer that was
tried, a file each. All of it belongs to one key, a hash of the model, its types, the samples, the settings and the compiler. A state
with another key is of no use and is replaced; so is one that is damaged. Files are written beside and renamed, before the record
that names them.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import attnc
from attnc.codegen.folder import Note
from attnc.codegen.project import write_json
from attnc.errors import ConfigError
from attnc.files import free_name
from attnc.npz import load_npz, made_by_attnc, save_npz
from attnc.quant.weight_config import LayerSettings
from attnc.search.budget import Score
from attnc.weights import QuantizedWeight
from attnc_host.integrity import sha256

SCHEMA = 1
FILE = "state.json"
WEIGHTS = re.compile(r"[0-9a-f]{16}\.npz")
"""Names of the files that hold weights."""


class Store:
    """The folder of a search. Quantized weights stay on disk: a large model has many, and few are used at a time."""

    def __init__(self, folder: Path, key: str, note: Note) -> None:
        self.folder, self.key = folder, key
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"search state {folder}: needed a folder, found something else")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).is_file():
            raise ConfigError(f"search state {folder}: the folder is not empty and no search made it; move it away, or choose another -o")
        self.data: dict[str, Any] = {"weights": {}, "gains": {}, "scores": {}}
        found, reason = _read(folder / FILE, key)
        if found is not None:
            self.data = found
            self._drop_damaged(note)
        elif folder.is_dir():
            if reason:
                note(f"search state {folder}: {reason}; the search starts afresh")
            self._clear("damaged" in reason)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._save()
        except OSError as error:
            raise ConfigError(f"search state {folder}: cannot be written ({error})") from error

    def _clear(self, damaged: bool) -> None:
        """Remove what a search left, and nothing else; a `damaged` record may be something else, and is moved aside."""
        if damaged:
            (self.folder / FILE).rename(free_name(self.folder / FILE))
        for path in self.folder.iterdir():
            if path.name == FILE or (WEIGHTS.fullmatch(path.name) and made_by_attnc(path)):
                path.unlink()

    @property
    def resumed(self) -> int:
        """Weights and measurements that an earlier search left."""
        return len(self.data["weights"]) + len(self.data["scores"])

    def _drop_damaged(self, note: Note) -> None:
        for name, record in list(self.data["weights"].items()):
            path = self.folder / record["file"]
            if not path.is_file() or sha256(path) != record["sha256"]:
                note(f"search state: {path} is missing or damaged and is made again")
                del self.data["weights"][name]

    def _save(self) -> None:
        write_json(self.folder / FILE, {"schema": SCHEMA, "key": self.key, "sha256": _digest(self.data), **self.data})

    def error(self, layer: str, settings: LayerSettings) -> float | None:
        """Relative power of the output error of a format, or None if it was not made."""
        record = self.data["weights"].get(_name(layer, settings))
        return None if record is None else float(record["error"])

    def put_weight(self, layer: str, settings: LayerSettings, weight: QuantizedWeight, error: float) -> None:
        """Keep a weight and its error."""
        name = _name(layer, settings)
        file = f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
        save_npz(self.folder / file, {"q": weight.q, "unit": weight.unit, "multiplier": weight.multiplier})
        self.data["weights"][name] = {"file": file, "sha256": sha256(self.folder / file), "error": error}
        self._save()

    def weight(self, layer: str, settings: LayerSettings) -> QuantizedWeight:
        """A weight that was kept."""
        record = self.data["weights"][_name(layer, settings)]
        arrays = load_npz(self.folder / record["file"])
        return QuantizedWeight(settings.format, arrays["q"], arrays["unit"], arrays["multiplier"])

    def gain(self, name: str) -> float | None:
        """A measured gain."""
        return self.data["gains"].get(name)

    def put_gain(self, name: str, gain: float) -> None:
        """Keep a gain."""
        self.data["gains"][name] = gain
        self._save()

    def score(self, name: str) -> Score | None:
        """A measurement."""
        found = self.data["scores"].get(name)
        return None if found is None else Score(*found)

    def put_score(self, name: str, score: Score) -> None:
        """Keep a measurement."""
        self.data["scores"][name] = [score.value, score.margin]
        self._save()

    def bytes(self) -> int:
        """What the folder takes on disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())


def version() -> str:
    """Release and SHA-256 of the compiler's own source: another compiler may quantize otherwise."""
    folder, digest = Path(attnc.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{attnc.__version__} {digest.hexdigest()}"


def fingerprint(*parts: Any) -> str:
    """SHA-256 over nested dicts, lists and arrays; of anything else, over its `repr`."""
    digest = hashlib.sha256()
    _feed(digest, parts)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, np.ndarray):
        digest.update(f"{part.dtype.str}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).data if part.size else b"")
    elif isinstance(part, dict):
        digest.update(f"dict{len(part)}".encode())
        for key in sorted(part):
            digest.update(repr(key).encode())
            _feed(digest, part[key])
    elif isinstance(part, list | tuple):
        digest.update(f"list{len(part)}".encode())
        for item in part:
            _feed(digest, item)
    else:
        digest.update((part if isinstance(part, bytes) else repr(part).encode()) + b"\0")


def _name(layer: str, settings: LayerSettings) -> str:
    return f"{layer}|{settings.label}|{settings.quantizer}"


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _read(path: Path, key: str) -> tuple[dict[str, Any] | None, str]:
    """The state in a file if it belongs to `key`, else why not ("" where there is none)."""
    if not path.is_file():
        return None, ""
    try:
        found = json.loads(path.read_text())
        data = {name: found[name] for name in ("weights", "gains", "scores")}
        if found["schema"] != SCHEMA:
            return None, f"it is of version {found['schema']}, needed {SCHEMA}"
        if found["sha256"] != _digest(data):
            return None, f"{FILE} is damaged (checksum)"
        if found["key"] != key:
            return None, "it belongs to another model, other samples, other settings or another version of attnc"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"{FILE} is damaged ({type(error).__name__})"
    return data, ""
