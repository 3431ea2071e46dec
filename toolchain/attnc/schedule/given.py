"""What a schedule settles beside the design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Style = Literal["stp", "flp"]
"""Of pipelines: those that stall as a whole, and those that flush."""


@dataclass(frozen=True)
class Given:
    """Places of buffers, board ports of memory interfaces and depths of FIFOs, each by name; what is not named is chosen. `pipelines` is
    the style that the emitted scripts ask for: a build lives with the other one as well."""

    places: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, str] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    pipelines: Style = "flp"


NOTHING = Given()
