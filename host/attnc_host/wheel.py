"""Builds the wheel of this package out of an archive, for pip (PEP 517): with the standard library alone, so that a board needs no network.

An archive has this file beside the package, since to import the package takes numpy, which pip does not show to what builds a wheel.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

NAME = "attnc_host"
KINDS = ("*.py", "*.html")
"""Files of the package."""
METADATA = """Metadata-Version: 2.1
Name: attnc-host
Version: {version}
Requires-Python: >=3.10
Requires-Dist: numpy>=1.21
Provides-Extra: serve
Requires-Dist: fastapi>=0.115; extra == "serve"
Requires-Dist: jinja2>=3.1; extra == "serve"
Requires-Dist: prometheus-client>=0.20; extra == "serve"
Requires-Dist: uvicorn>=0.30; extra == "serve"
"""
WHEEL = "Wheel-Version: 1.0\nGenerator: attnc\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    """Write the wheel into a folder and return its name."""
    package = Path(__file__).resolve().parent / NAME
    version = (package / "version.py").read_text().split('"')[-2]
    info = f"{NAME}-{version}.dist-info"
    paths = [path for kind in KINDS for path in sorted(package.rglob(kind))]
    files = {f"{NAME}/{path.relative_to(package).as_posix()}": path.read_bytes() for path in paths}
    files[f"{info}/METADATA"] = METADATA.format(version=version).encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    name = f"{NAME}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as wheel:
        for entry, content in files.items():
            wheel.writestr(zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0)), content)
    return name


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
