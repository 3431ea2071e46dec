"""A tool of somebody else: found, given a folder of its own to work in, run with its log kept."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attnc.codegen.project import write_json
from attnc.errors import BuildError, ConfigError
from attnc_host.manifest import Manifest
from attnc_host.signals import uninterrupted

Told = Callable[[str], None]
"""Takes a line that a tool prints."""
MARK = "attnc.json"
"""In a folder that attnc made for a tool: which build and which command it is for."""
TAIL = 12
"""Lines of a log that an error shows."""
LONGEST = 160
"""Characters of such a line."""


@dataclass
class Log:
    """All that a tool printed, in a file, and what of it is kept: the last lines."""

    path: Path
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))

    @property
    def end(self) -> str:
        """The last lines, each of bounded length."""
        return "\n".join(line if len(line) <= LONGEST else line[:LONGEST] + "..." for line in self.tail if line.strip())


def find_program(names: Sequence[str], where: Path | None, option: str, what: str) -> Path:
    """The first of the programs `names` that is on PATH, or that `where` is or holds (an installation, its bin); raises `ConfigError` that
    says what was looked for: `what`. `option` is the one that gives `where`, empty where there is none."""
    wanted = " or ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
    if where is not None and where.is_file():
        if where.name not in names or not os.access(where, os.X_OK):
            raise ConfigError(f"{option} {where}: needed an executable {wanted}, or the folder of an installation ({what})")
        return where.absolute()
    folders = None if where is None else os.pathsep.join(str(folder.absolute()) for folder in (where / "bin", where))
    if where is not None and not where.is_dir():
        raise ConfigError(f"{option} {where}: no such file or folder; needed {wanted}, or the folder of an installation ({what})")
    for name in names:
        found = shutil.which(name, path=folders)
        if found is not None:
            return Path(found).absolute()
    place = f"in {where} or its bin" if where is not None else "on PATH"
    raise ConfigError(f"needed {wanted} {place} ({what}), found none; install it{f', or say where it is with {option}' if option else ''}")


def workplace(build: Path, work: Path | None, suffix: str, step: str) -> Path:
    """An empty folder for a step of a tool: `<build>.<suffix>/<step>`, or `work`/step. What attnc made there before goes; anything else
    is refused."""
    whole = build.absolute()
    folder = (work.absolute() if work is not None else whole.with_name(f"{whole.name}.{suffix}")) / step
    if folder.is_symlink() or (folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(f"{folder}: is there already, and attnc did not make it; choose another place with --work, or remove it first")
    try:
        with uninterrupted():
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            write_json(folder / MARK, {"build": str(whole), "step": step})
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another place with --work") from error
    return folder


def copy_sources(manifest: Manifest, folder: Path, one_sample: bool = False) -> None:
    """The sources of a build, with the data of its vectors (links where they can be: tools only read it), or of the first one."""
    source = manifest.folder / "hls"
    if not (source / "export_ip.tcl").is_file():
        raise BuildError(f"{source}: has no scripts of this version of attnc; compile the model again")
    own = re.compile(r"data|.*_(native|ap)(\.sha256)?|.*\.o")
    shutil.copytree(
        source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True, ignore=lambda at, names: [n for n in names if own.fullmatch(n)]
    )
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(path.stat().st_mode | 0o700)  # a build may be one that nobody can write to
    (folder / "data").mkdir()
    sizes = {"inputs.bin": manifest.input_bytes, "expected.bin": manifest.output_bytes}
    for path in sorted((source / "data").iterdir()):
        target = folder / "data" / path.name
        if one_sample and path.name in sizes:
            with open(path, "rb") as file:
                target.write_bytes(file.read(sizes[path.name]))
            continue
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def run_logged(command: Sequence[str | Path], folder: Path, log: Log, told: Told) -> int:
    """Run a program in `folder`: each line that it prints is added to the log and told. Its exit code; it and all that it started end with
    this call, however that ends."""
    try:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise BuildError(f"{command[0]}: cannot be run ({error.strerror})") from error
    try:
        assert process.stdout is not None
        with open(log.path, "a") as file, process.stdout as lines:
            for line in lines:
                file.write(line)
                log.tail.append(line.rstrip())
                told(line.rstrip())
        return process.wait()
    except BaseException:
        with uninterrupted(), contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def failed(name: str, code: int, log: Log) -> BuildError:
    """The error of a tool that failed."""
    return BuildError(f"{name} failed with exit code {code} (log: {log.path}); it ends with:\n{log.end or '(nothing)'}")
