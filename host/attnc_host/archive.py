"""A build as one file for the board: weights, program, golden vectors, what runs on the host, a bitstream if there is one, this package.

A ZIP whose entries are stored as they are, in order, without times: the same build gives the same bytes. `pip install app.zip` installs
this package from it (pyproject.toml), with nothing but numpy to ask for; `Accelerator.open("app.zip")` reads it. Reading takes the files
that the manifest lists out, checks them, and executes none of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attnc_host import json_file
from attnc_host import manifest as manifests
from attnc_host.caches import RUNS
from attnc_host.errors import AcceleratorError
from attnc_host.fields import Fields
from attnc_host.integrity import BLOCK, OWN, manifest_checksum, sha256
from attnc_host.manifest import Manifest
from attnc_host.registers import check_synthesized
from attnc_host.version import __version__
from attnc_host.wheel import KINDS

APP = "app"
"""The folder of the archive that holds the build."""
BITSTREAM = "bitstream"
BITSTREAMS = (".bit", ".bin", ".xclbin", ".hwh", ".dtbo")
"""What a board may need to be programmed: for PYNQ .bit and .hwh, for fpga_manager .bin (and a device tree .dtbo), for XRT .xclbin."""
MAX_MANIFEST = 64 << 20
ENTRIES = "weights/weights.bin", "weights/program.bin", "weights/constants.bin", "golden/inputs.bin", "golden/expected.bin"
GOLDEN = "golden/graph.json", "golden/params.npz"
"""What the golden model needs, which runs where the compiler is installed."""
PYPROJECT = """# Installs the runtime from this archive: pip install app.zip
[build-system]
requires = []
build-backend = "attnc_wheel"
backend-path = ["."]

[project]
name = "attnc-host"
version = "{version}"
requires-python = ">=3.10"
dependencies = ["numpy>=1.21"]
optional-dependencies.serve = ["fastapi>=0.115", "jinja2>=3.1", "prometheus-client>=0.20", "uvicorn>=0.30"]
"""


def write_archive(manifest: Manifest, output: Path, files: Sequence[Path] = (), golden: bool = True) -> list[str]:
    """Write the archive of a build folder and return the names of its entries. `files` are bitstreams and what belongs to them; `golden`
    takes the golden model along, for those who open the archive where the compiler is installed."""
    chosen = {name: manifest.folder / name for name in _needed(manifest, golden)}
    for path in files:
        if path.suffix not in BITSTREAMS or not path.is_file():
            raise AcceleratorError(f"{path}: needed a file that ends in {', '.join(BITSTREAMS)}")
        if path.suffix == ".hwh":
            check_synthesized(manifest.registers, path, manifest.top)
        name = f"{BITSTREAM}/{manifest.top}{path.suffix}"
        if name in chosen:
            raise AcceleratorError(f"{path}: a second file that ends in {path.suffix}")
        chosen[name] = path
    entries = {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in sorted(chosen.items())}
    data = {**{key: value for key, value in manifest.data.items() if key != OWN}, "files": entries}
    text = json.dumps({**data, OWN: manifest_checksum(data)}, indent=1) + "\n"
    own = Path(__file__).parent
    sources = {f"attnc_host/{path.relative_to(own).as_posix()}": path for kind in KINDS for path in sorted(own.rglob(kind))}
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as stage:
        try:
            with zipfile.ZipFile(stage, "w") as archive:
                archive.writestr(_info("pyproject.toml"), PYPROJECT.format(version=__version__))
                archive.writestr(_info("attnc_wheel.py"), (own / "wheel.py").read_bytes())
                for name, path in sources.items():
                    archive.writestr(_info(name), path.read_bytes())
                archive.writestr(_info(f"{APP}/manifest.json"), text)
                for name in entries:
                    with open(chosen[name], "rb") as source, archive.open(_info(f"{APP}/{name}"), "w", force_zip64=True) as target:
                        shutil.copyfileobj(source, target, BLOCK)
                names = archive.namelist()
            os.chmod(stage.name, 0o644)
            os.replace(stage.name, output)
        except BaseException:
            os.unlink(stage.name)
            raise
    return names


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = 0o644 << 16
    info.create_system = 3
    return info


def _needed(manifest: Manifest, golden: bool) -> Iterator[str]:
    """Files of a build that a board needs."""
    yield from ENTRIES
    yield from GOLDEN if golden else ()
    links = [link.source.file for link in manifest.feeds] + [link.source.file for link in manifest.fetches]
    tables: list[Path | None] = []
    if (decoder := manifest.decoder) is not None:
        tables = [
            decoder.tokenizer,
            decoder.chat,
            *(table.file for table in (decoder.tokens, decoder.positions, decoder.head) if table is not None),
        ]
        yield f"golden/{RUNS}"
    for path in (manifest.leading, manifest.trailing, *links, *tables):
        if path is not None:
            yield path.relative_to(manifest.folder).as_posix()


def is_archive(path: Path) -> bool:
    """Whether a path is a ZIP file."""
    return path.is_file() and zipfile.is_zipfile(path)


def made_by_attnc(path: Path) -> bool:
    """Whether a file is an archive that this module wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{APP}/manifest.json" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


@contextlib.contextmanager
def opened(path: str | os.PathLike[str] | Manifest, verify: bool = True) -> Iterator[Manifest]:
    """The manifest of a build folder, or of an archive, whose files lie in a folder of their own until the end of the block."""
    if isinstance(path, Manifest) or not is_archive(Path(path)):
        yield manifests.load(path, verify)
        return
    with tempfile.TemporaryDirectory(prefix="attnc-app-") as folder:
        extract(Path(path), Path(folder))
        yield manifests.load(folder, verify)


def extract(path: Path, target: Path) -> None:
    """Take the build out of an archive into an empty folder: its manifest and the files that this lists, no more bytes than it says."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = _entries(path, archive)
            manifest = infos.get("manifest.json")
            if manifest is None or manifest.file_size > MAX_MANIFEST:
                raise AcceleratorError(f"{path}: is no archive of attnc: it has no {APP}/manifest.json")
            (target / "manifest.json").write_bytes(archive.read(manifest))
            fields = Fields(json_file.read_json(target / "manifest.json"), target, f"{path}: manifest.json", "")
            listed = fields.child("files")
            for name in listed.data:
                entry, place = listed.child(name), listed.inside(name, f"files[{name!r}]")
                info, size = infos.get(name), entry.integer("bytes", 0)
                if info is None or info.file_size != size:
                    found = "no such entry" if info is None else f"{info.file_size} bytes"
                    raise AcceleratorError(f"{path}: {name!r}: needed {size} bytes, found {found}: the archive is damaged")
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, open(place, "xb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise AcceleratorError(f"{path}: the archive is damaged: {error}") from error
    except OSError as error:
        raise AcceleratorError(f"{path}: cannot be taken apart in {target}: {error}") from error


def _entries(path: Path, archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    """What lies in the folder of the build, by name; each stored as it is, so that its size is what it takes."""
    found: dict[str, Any] = {}
    for info in archive.infolist():
        folder, _, name = info.filename.partition("/")
        if folder != APP or not name or info.is_dir():
            continue
        if name in found or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise AcceleratorError(f"{path}: {info.filename!r}: needed one entry of this name, stored and not encrypted")
        found[name] = info
    return found
