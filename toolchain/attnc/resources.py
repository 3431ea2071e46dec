"""Where the files that are not Python lie: inside an installed wheel, or in the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attnc.errors import BuildError


def data_path(kind: Literal["templates", "hls_kernels"]) -> Path:
    """The folder of the templates or of the kernels."""
    package = Path(__file__).resolve().parent
    candidates = (package / "_data" / kind, package.parents[1] / kind)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise BuildError(
        f"attnc needs its folder {kind!r}, found neither {candidates[0]} (installed) nor {candidates[1]} (checkout): reinstall attnc"
    )
