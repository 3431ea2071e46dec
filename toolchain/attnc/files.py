"""Files that attnc writes, whole or not at all, and never in place of one that it did not make; and JSON that it reads back."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attnc.errors import BuildError, ConfigError, DataError
from attnc_host import AcceleratorError, json_file


def umask() -> int:
    """The mask of the process for the modes of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A new file beside `path`, to be filled: it takes the place of `path` when the block ends well, and vanishes when it does not."""
    path = Path(os.path.realpath(path))  # a link stays, what it names is replaced
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        os.chmod(beside, 0o666 & ~umask())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """`data` as the whole of a file."""
    with written_whole(path) as beside:
        beside.write_bytes(data)


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before the work that fills it."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; the name of a file is needed")
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is a device or a pipe; the name of a file is needed")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"{path}: the folder {path.parent} cannot be written")


def check_replaceable(path: Path, made_by_attnc: Callable[[Path], bool], read: Iterable[Path] = ()) -> None:
    """As `check_writable`, and a file that is there already must be one that attnc made, and none that the command reads (a folder
    in `read` stands for all files in it)."""
    check_writable(path)
    if not path.exists():
        return
    for used in read:
        for file in used.rglob("*") if used.is_dir() else [used]:
            if file.exists() and file.samefile(path):
                raise DataError(f"{path}: this command reads {file}, and would overwrite it; choose another name for what it writes")
    if not made_by_attnc(path):
        raise DataError(f"{path}: is there already, and attnc did not make it; choose another name, or remove it first")


def check_folder(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse a folder whose contents would be replaced: the working, home or root folder or one above them, or one that holds an input
    of the command. `inputs` are paths by what they are."""
    places = {"the root folder": Path("/"), "the home folder": Path("~").expanduser()}
    with contextlib.suppress(FileNotFoundError):
        places["the working folder"] = Path.cwd()
    for what, place in places.items():
        if holds(folder, place):
            raise ConfigError(f"output {folder}: is {what} or holds it, and would be replaced as a whole; choose another folder with -o")
    for what, path in inputs.items():
        if holds(folder, path):
            raise ConfigError(f"output {folder}: holds the {what} {path}, and would be replaced as a whole; choose another folder with -o")


def holds(folder: Path, path: Path) -> bool:
    """Whether `path`, or what it is a link to, is the folder or lies in it."""
    try:
        found = folder.stat()
    except OSError:
        return False
    for start in (path.absolute(), Path(os.path.realpath(path))):
        for place in (start, *start.parents):
            with contextlib.suppress(OSError):
                if os.path.samestat(found, place.stat()):
                    return True
    return False


def read_json(path: Path) -> Any:
    """What a JSON file of a build folder holds; raises `BuildError`."""
    try:
        return json_file.read_json(path)
    except AcceleratorError as error:
        raise BuildError(f"{error}; compile the model again") from error


def free_name(path: Path) -> Path:
    """`path` with the first of .old-1, .old-2 ... behind it that is not taken."""
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}.old-{number}")):
        number += 1
    return path.with_name(f"{path.name}.old-{number}")
