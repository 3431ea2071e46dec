"""Settings of a compilation, validated in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Calibration = Literal["mse", "minmax", "percentile"]


class CompileOptions(BaseModel):
    """What `attnc compile` takes besides the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = "kv260"
    """Name of a known board, or the path of a YAML or TOML file that describes one."""
    calib: Path | None = None
    """Calibration inputs, `.npz` keyed by the model's input names; without it, synthetic inputs are used."""
    output: Path = Path("build")
    strict: bool = False
    """Refuse models that need the host for anything but moving data."""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    calibration: Calibration = "mse"
    implementations: dict[str, str] = Field(default_factory=dict)
    """Implementation of a nonlinear function by the function's name (`attnc approx` lists both); "auto" for the others."""
    error_target: float | None = Field(default=None, gt=0, le=1)
    """Largest error that "auto" accepts of an implementation; by default half a step of its output (2**-13 in a softmax)."""
    clock_mhz: float | None = Field(default=None, gt=0, le=1000)
    """Target clock; by default the board's."""
    dump: Path | None = None
    """Folder that receives the graph as text after every pass."""
    force: bool = False
    """Replace an output folder even if attnc did not make it."""
    seed: int = 0
    """Of the synthetic calibration inputs."""
