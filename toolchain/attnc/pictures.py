"""Pictures, drawn with matplotlib (the extra `plot`) and written as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attnc.errors import BuildError, ConfigError
from attnc.files import written_whole

SOFTWARE = "attnc"


def made_by_attnc(path: Path) -> bool:
    """Whether a file is such a picture."""
    with open(path, "rb") as file:
        return f"Software\0{SOFTWARE}".encode() in file.read(200)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, sizes in inches, on no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BuildError(f"--plot: needed matplotlib (pip install 'attnc[plot]'), found none: {error}") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path, dpi: int) -> None:
    """As a whole PNG."""
    try:
        with written_whole(path) as beside:
            figure.savefig(beside, dpi=dpi, format="png", metadata={"Software": SOFTWARE})
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written ({error})") from error
