"""Data for a build folder: inputs, labels, and the model that it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnc.arrays import Array
from attnc.errors import DataError
from attnc.npz import load_npz
from attnc_host.errors import InputError
from attnc_host.integrity import sha256
from attnc_host.manifest import Manifest

Note = Callable[[str], None]
"""Takes a remark for the user."""


def load_inputs(manifest: Manifest, path: Path, note: Note) -> dict[str, Array]:
    """The arrays of an archive that the model takes."""
    return _only_inputs(manifest, path, load_npz(path), note)


def load_labelled(manifest: Manifest, path: Path, name: str | None, note: Note) -> tuple[dict[str, Array], Array | None]:
    """Inputs and labels from one archive. Labels are called "label" unless `name` says otherwise, and may then be absent."""
    arrays = load_npz(path)
    wanted = name or "label"
    if name is not None and name not in arrays:
        raise DataError(f"{path}: needed the labels {name!r}, found {', '.join(map(repr, arrays))}")
    is_input = wanted in {port.name for port in manifest.inputs}
    truth = arrays.get(wanted) if name is not None or not is_input else None
    return _only_inputs(manifest, path, arrays, note, silent=(wanted,)), truth


def _only_inputs(manifest: Manifest, path: Path, arrays: Mapping[str, Array], note: Note, silent: Sequence[str] = ()) -> dict[str, Any]:
    """Leave out what is no input, such as labels, and say so; an input that is missing is an error."""
    if manifest.decoder is not None:
        raise InputError(f"{manifest.folder}: is a decoder, which generates tokens: use `attnc generate`")
    names = [port.name for port in manifest.inputs]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise DataError(f"{path}: input {', '.join(map(repr, missing))} is missing, the file has {', '.join(map(repr, arrays))}")
    extra = [name for name in arrays if name not in names and name not in silent]
    if extra:
        note(f"{path}: {', '.join(map(repr, extra))} is left out, as the model has no such input")
    return {name: arrays[name] for name in names}


def find_model(manifest: Manifest, model: Path | None, inputs: Path, note: Note) -> Path | None:
    """The model that was compiled: the one given, which must be it, or one of its name nearby that is it."""
    source = manifest.data.get("model")
    if not isinstance(source, dict) or not isinstance(source.get("file"), str):
        return model
    if model is not None:
        if not model.is_file():
            raise DataError(f"--model {model}: no such file")
        if sha256(model) != source.get("sha256"):
            raise DataError(
                f"--model {model}: is not the model that {manifest.folder} was compiled from ({source['file']}); compile it again"
            )
        return model
    for folder in (Path(), manifest.folder, manifest.folder.parent, inputs.parent):
        path = folder / Path(source["file"]).name
        if path.is_file() and sha256(path) == source.get("sha256"):
            return path
    note(f"the model {source['file']} was not found: no accuracy in float; give it with --model")
    return None
