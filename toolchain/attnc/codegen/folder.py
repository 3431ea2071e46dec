"""The build folder takes its place: made beside it, swapped in by a rename, and nothing is lost that attnc did not make."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnc.errors import BuildError, ConfigError
from attnc.files import check_folder, free_name, umask
from attnc_host.integrity import sha256
from attnc_host.signals import uninterrupted

MANIFEST, REPORT = "manifest.json", "report.json"
CONFIG, SCHEDULE = "attnc.yaml", "schedule.yaml"
"""Settings of the layers, where a file or a search gave them, and the schedule: files of a build that are there to be edited."""
SIMULATION, MEASURED = "cosim.json", "measured.json"
"""What `attnc cosim` found, and what a self-test on a board did."""
SIMULATORS = tuple(f"hls/{name}{stamp}" for name in ("csim_native", "csim_ap", "cosim_native") for stamp in ("", ".sha256"))
OWN = (MANIFEST, REPORT, "report.txt", SIMULATION, MEASURED, CONFIG, SCHEDULE, *SIMULATORS)
"""Files of a build that its manifest does not list."""
Note = Callable[[str], None]
"""Takes a remark for the user."""


def check_output(output: Path, force: bool, inputs: Mapping[str, Path]) -> None:
    """Refuse an output that is no folder, or one that `check_folder` refuses (`inputs` are what the command reads), or that holds
    anything but an attnc build as it was made; with `force` that last one is allowed, and moved aside."""
    output = output.absolute()
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ConfigError(f"output {output}: needed a folder, found something else")
    check_folder(output, inputs)
    found = [] if force else list(itertools.islice(foreign(output), 4))
    if found:
        shown = ", ".join(found[:3]) + (" and more" if len(found) > 3 else "")
        raise ConfigError(
            f"output {output}: the folder is not empty, and attnc did not make it as it is now: {shown}; choose another with -o, or give "
            "--force to have it moved aside"
        )


def foreign(folder: Path) -> Iterator[str]:
    """Files in a folder that attnc did not make, or that were changed since; all of them where it is no build."""
    files, settings = _recorded(folder)
    for at, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(at, name))]
        for path in sorted(Path(at, name) for name in (*names, *links)):
            name = path.relative_to(folder).as_posix()
            if not files or path.is_symlink() or not path.is_file() or not (name in files or name in OWN):
                yield name
            elif (wanted := files.get(name) or settings.get(name)) is not None and sha256(path) != wanted:
                yield f"{name} (changed)"


def _recorded(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Checksums of files as the build recorded them: in the manifest, and of the settings in the report; nothing where it is no build."""
    try:
        files = {name: entry["sha256"] for name, entry in json.loads((folder / MANIFEST).read_bytes())["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, {}
    try:
        settings = dict(json.loads((folder / REPORT).read_bytes())["checksums"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        settings = {}
    return files, settings


@contextlib.contextmanager
def staged(output: Path, force: bool, inputs: Mapping[str, Path], note: Note) -> Iterator[Path]:
    """A fresh folder that takes the place of `output` when the block ends well, and vanishes when it does not; see `check_output`."""
    check_output(output, force, inputs)
    output = output.absolute()
    made = [place for place in (output.parent, *output.parent.parents) if not place.exists()]
    stage: Path | None = None
    try:
        with uninterrupted():
            output.parent.mkdir(parents=True, exist_ok=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{output.name[:100]}.", dir=output.parent))
        stage.chmod(0o777 & ~umask())
        yield stage
        _replace(stage, output, note)
        made = []
    except OSError as error:
        raise BuildError(f"output {output}: cannot be written ({error})") from error
    finally:
        with uninterrupted():
            if stage is not None:
                shutil.rmtree(stage, ignore_errors=True)
            for place in made:
                with contextlib.suppress(OSError):
                    place.rmdir()


def _replace(stage: Path, output: Path, note: Note) -> None:
    """Rename `stage` to `output`. What was there is moved aside, unless attnc made all of it; that goes once the new one is in place."""
    if not output.exists():
        os.rename(stage, output)
        return
    keep = any(foreign(output))
    with uninterrupted():
        trash = None if keep else Path(tempfile.mkdtemp(prefix=f".{output.name[:100]}.old.", dir=output.parent))
        old = free_name(output) if trash is None else trash / "build"
        try:
            os.rename(output, old)
            try:
                os.rename(stage, output)
            except OSError:
                os.rename(old, output)
                raise
        finally:
            if trash is not None:
                shutil.rmtree(trash, ignore_errors=True)
    if keep:
        note(f"{output} held files that attnc did not make; what was there is now {old}")
