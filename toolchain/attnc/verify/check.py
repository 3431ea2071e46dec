"""The last step of a compilation: the emitted C++ computes the build's own vectors, and must give what golden gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnc.errors import BuildError, DifferenceError
from attnc.verify.csim import compare_build
from attnc_host import AcceleratorError
from attnc_host.csim import missing_tool
from attnc_host.progress import Progress

NOT_ASKED = "--no-check"


def check_build(folder: Path, wanted: bool) -> dict[str, Any]:
    """What the report says of it: `samples` and `elements` that are equal, or `unchecked`, why nothing was compared.

    Raises `DifferenceError` where an element differs, `BuildError` where the C++ does not compile or stops. The simulator is made for
    this machine, and does not stay in the build.
    """
    tool = missing_tool()
    if not wanted or tool is not None:
        return {"unchecked": f"{tool!r} is not installed or not on PATH" if wanted else NOT_ASKED}
    try:
        result = compare_build(folder, progress=Progress(quiet=True))
    except AcceleratorError as error:
        raise BuildError(f"{_refusal('cannot be simulated')}: {error}") from error
    for path in (folder / "hls").glob("csim_*"):
        path.unlink()
    if not result.bit_exact:
        counts = f"{result.mismatches:,} of {result.elements:,} elements"
        raise DifferenceError(f"{_refusal(f'differs from golden in {counts}')}; the first: {result.difference}")
    return {"samples": result.samples, "elements": result.elements}


def _refusal(what: str) -> str:
    return f"the emitted C++ {what}, which is a bug in attnc, so no build was written ({NOT_ASKED} writes it as it is)"
