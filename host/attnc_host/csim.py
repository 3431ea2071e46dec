"""Backend "csim": the emitted C++, compiled with g++ and run on memory images through temporary files."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from attnc_host.boundary import Image
from attnc_host.errors import AcceleratorError
from attnc_host.integrity import sha256
from attnc_host.manifest import Manifest
from attnc_host.progress import Progress
from attnc_host.signals import uninterrupted

TYPES = ("native", "ap")
STREAM_FAILURE = 3
"""Exit code of the simulator when a stream was read while empty, or had data left over."""
MAX_PROCESSES = 16


def ap_include() -> Path:
    """Folder with ap_int.h: from Vitis where XILINX_HLS is set, else from the hls4ml package."""
    vitis = os.environ.get("XILINX_HLS")
    if vitis and (Path(vitis) / "include" / "ap_int.h").is_file():
        return Path(vitis) / "include"
    found = importlib.util.find_spec("hls4ml")
    for root in (found.submodule_search_locations or []) if found else []:
        folder = Path(root) / "templates" / "vivado" / "ap_types"
        if (folder / "ap_int.h").is_file():
            return folder
    raise AcceleratorError(
        "types 'ap' needs ap_int.h: install the extra 'attnc[ap]' (package hls4ml), or set XILINX_HLS to a Vitis HLS installation"
    )


def build_simulator(folder: Path, types: str = "native", flags: str | None = None, mode: str = "csim") -> Path:
    """Compile the test bench in `folder` (the `hls` folder of a build, writable) and return the program; with mode "cosim" the one that
    runs in simulated time."""
    command = [*_make_command(folder, types, flags), f"MODE={mode}"]
    program = folder / f"{mode}_{types}"
    with _locked(folder):
        if not is_as_built(program):
            program.unlink(missing_ok=True)
        done = subprocess.run([*command, "build"], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", env=_clean())
        if done.returncode == 0 and program.is_file() and not is_as_built(program):
            _stamp(program).write_text(sha256(program) + "\n")
    if done.returncode != 0:
        raise AcceleratorError(f"the C++ compiler failed in {folder}:\n{done.stderr.strip() or done.stdout.strip()}")
    if not program.is_file():
        raise AcceleratorError(f"make succeeded in {folder}, but made no {program.name}: the build folder is damaged")
    return program


def missing_tool() -> str | None:
    """A program that simulation needs and that is not there: make, or the C++ compiler."""
    compiler = shlex.split(os.environ.get("CXX", "g++")) or ["g++"]
    return next((tool for tool in ("make", compiler[0]) if shutil.which(tool) is None), None)


def _stamp(program: Path) -> Path:
    """The file that holds the checksum of a simulator."""
    return program.with_name(f"{program.name}.sha256")


def is_as_built(program: Path) -> bool:
    """Whether a simulator is there as `build_simulator` left it: make asks for its age alone, and a damaged one may answer wrongly."""
    try:
        return _stamp(program).read_text().strip() == sha256(program)
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def simulator(folder: Path, types: str = "native", mode: str = "csim") -> Iterator[Path]:
    """The simulator, made in place or, where the folder cannot be written, in a copy of the sources that goes at the end."""
    program = folder / f"{mode}_{types}"
    command = [*_make_command(folder, types, None), f"MODE={mode}", "-q", "build"]
    if os.access(folder, os.W_OK):
        yield build_simulator(folder, types, mode=mode)
    elif is_as_built(program) and subprocess.run(command, capture_output=True, env=_clean()).returncode == 0:
        yield program
    else:
        with tempfile.TemporaryDirectory(prefix="attnc-csim-") as temporary:
            copy = Path(temporary) / "hls"
            left = re.compile(r"data|(csim|cosim)_(native|ap)(\.sha256)?")
            shutil.copytree(folder, copy, ignore=lambda at, names: [n for n in names if at == str(folder) and left.fullmatch(n)])
            for path in (copy, *copy.rglob("*")):
                path.chmod(path.stat().st_mode | 0o700 if path.is_dir() else path.stat().st_mode | 0o600)
            yield build_simulator(copy, types, mode=mode)


def _make_command(folder: Path, types: str, flags: str | None) -> list[str]:
    """make with its settings, once the tools are known to be there."""
    if types not in TYPES:
        raise AcceleratorError(f"types: needed one of {', '.join(TYPES)}, found {types!r}")
    if not (folder / "Makefile").is_file():
        raise AcceleratorError(f"{folder}: no Makefile, so nothing to simulate; compile the model again")
    tool = missing_tool()
    if tool is not None:
        raise AcceleratorError(f"simulation needs {tool!r}, which is not installed or not on PATH")
    command = ["make", "-j2", "-C", str(folder), f"TYPES={types}"]
    if types == "ap":
        command.append(f"AP_INCLUDE={ap_include()}")
    if flags:
        command.append(f"CXXFLAGS={flags}")
    return command


def _clean() -> dict[str, str]:
    """The environment without what an outer make would pass on."""
    return {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One build at a time in a folder: another would run a program that is half written."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class CsimBackend:
    """Runs the simulator, several samples at a time in processes of their own.

    After `execute`, `depths` holds the depth that each stream reached and `seconds` the time that the simulation took.
    """

    def __init__(self, manifest: Manifest, types: str = "native", processes: int | None = None, progress: Progress | None = None) -> None:
        self.manifest, self.types = manifest, types
        self.processes = processes or min(len(os.sched_getaffinity(0)), MAX_PROCESSES)
        self.progress = progress or Progress()
        self.depths: dict[str, int] = {}
        self.seconds = 0.0
        self.data = manifest.folder / "hls" / "data"
        self._served: Served | None = None
        self._made = contextlib.ExitStack()
        for name in ("run.txt", "program.bin", "weights.bin", "constants.bin"):
            if not (self.data / name).is_file():
                raise AcceleratorError(f"{self.data / name} is missing, the build folder is damaged; compile the model again")
        self.progress.stage(f"compiling the simulator ({types} types)")
        try:
            self.program = self._made.enter_context(simulator(manifest.folder / "hls", types))
        except BaseException:
            self.close()
            raise
        finally:
            self.progress.finish()

    def execute(self, images: Image, scalars: Mapping[str, int] | None = None) -> Image:
        """Input regions [samples, input_bytes] to output regions [samples, output_bytes]; with `scalars`, runs of a decoder."""
        if scalars:
            return np.stack([self._entry(image, scalars) for image in images])
        samples = images.shape[0]
        parts = np.array_split(np.ascontiguousarray(images), min(self.processes, samples))
        self.progress.stage(f"simulating {samples} sample{'s' if samples > 1 else ''}")
        runs: list[_Run] = []
        try:
            with tempfile.TemporaryDirectory(prefix="attnc-csim-") as temporary:
                for i, part in enumerate(parts):
                    with uninterrupted():
                        runs.append(_Run(self.program, self.data, part, Path(temporary) / str(i), lambda: self._told(runs, samples)))
                results = [run.result(self.manifest.output_bytes) for run in runs]
        except OSError as error:
            raise AcceleratorError(f"the simulator {self.program} cannot run: {error}") from error
        finally:
            for run in runs:
                run.kill()
            self.progress.finish()
        self.seconds += max(run.seconds for run in runs)
        for run in runs:
            for name, depth in run.depths.items():
                self.depths[name] = max(self.depths.get(name, 0), depth)
        return np.concatenate(results)

    def _entry(self, image: Image, scalars: Mapping[str, int]) -> Image:
        """A run of a decoder, in a process that keeps its memory."""
        if self._served is None:
            with uninterrupted():
                self._served = Served(self.program, self.data)
        return np.frombuffer(self._served.run(image, scalars, self.manifest.output_bytes), np.uint8)

    def _told(self, runs: list[_Run], samples: int) -> None:
        self.progress.update(sum(run.done for run in runs), samples)

    def close(self) -> None:
        """End the process of a decoder, and remove the copy of the sources, if one was made."""
        if self._served is not None:
            self._served.close()
            self._served = None
        self._made.close()


def failure(program: Path, code: int, said: str) -> str:
    """Why a simulator ended, from its exit code and what it said."""
    if code == STREAM_FAILURE:
        return f"the simulation stopped at a stream, as the hardware would hang or mix up samples: {said}"
    if code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else f"signal {-code}"
        hint = f"; it was compiled on another machine: remove {program} and try again" if name == "SIGILL" else ""
        return f"the simulator {program} was ended by {name}{hint}" + (f": {said}" if said else "")
    return f"the simulator {program} failed with exit code {code}: {said or 'no message'}"


class Served:
    """A process of the simulator of a decoder that runs what it is sent, one after the other, and keeps its memory; `environment` is added
    to that of this process."""

    def __init__(self, program: Path, data: Path, environment: Mapping[str, str] | None = None) -> None:
        command = [str(program.resolve()), str(data), "-", "-"]
        self.program = program
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env={**os.environ, **(environment or {})}
        )

    def run(self, image: Image, scalars: Mapping[str, int], size: int) -> bytes:
        """The `size` bytes that come back for an input region and the scalars of a run, in the order of its registers."""
        sent = np.array([*scalars.values()], "<i4").tobytes() + np.ascontiguousarray(image).tobytes()
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(sent)
            self.process.stdin.flush()
            found = self.process.stdout.read(size)
        except (BrokenPipeError, OSError):
            found = b""
        if len(found) != size:
            code = self.process.wait()
            self.errors.seek(0)
            raise AcceleratorError(failure(self.program, code, self.errors.read().decode(errors="replace").strip()))
        return found

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class _Run:
    """One process of the simulator on some of the samples."""

    def __init__(self, program: Path, data: Path, images: Image, stem: Path, told: object) -> None:
        self.done, self.seconds, self.depths = 0, 0.0, dict[str, int]()
        self.samples, self.outputs, self.program = images.shape[0], stem.with_suffix(".out"), program
        self._told = told
        inputs = stem.with_suffix(".in")
        images.tofile(inputs)
        command = [str(program.resolve()), str(data), str(inputs), str(self.outputs)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        assert self.process.stdout is not None and self.process.stderr is not None
        self.threads = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.stdout), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.stderr), daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        for line in stream:
            found = re.fullmatch(r"sample (\d+) of \d+", line.strip())
            if not found:
                lines.append(line.rstrip("\n"))
            elif callable(self._told):
                self.done = int(found[1])
                self._told()

    def result(self, output_bytes: int) -> Image:
        """Wait, and return the output regions."""
        code = self.process.wait()
        for thread in self.threads:
            thread.join()
        if code != 0:
            raise AcceleratorError(failure(self.program, code, "\n".join(self.stderr[-20:]).strip()))
        for line in self.stdout:
            name, _, number = line.rpartition(" ")
            if name == "seconds":
                self.seconds = float(number)
            elif name not in ("", "samples") and number.isdigit():
                self.depths[name] = int(number)
        found = np.fromfile(self.outputs, np.uint8)
        if found.size != self.samples * output_bytes:
            raise AcceleratorError(f"{self.program}: needed {self.samples * output_bytes} bytes of outputs, found {found.size}")
        return found.reshape(self.samples, output_bytes)

    def kill(self) -> None:
        """End the process if it still runs, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
