"""Reads TOP_cosim.rpt, the report of a co-simulation of Vitis HLS: whether outputs were right, and cycles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from attnc.errors import DataError

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class CosimReport:
    """Status as the tool spells it ("Pass"), cycles of a call (least, mean, largest) and in all; None where the tool does not say."""

    status: str
    latency: tuple[int | None, int | None, int | None]
    total: int | None

    @property
    def passed(self) -> bool:
        """Whether the RTL gave what the C++ does."""
        return self.status.lower() == "pass"


def read_cosim_report(path: Path) -> CosimReport:
    """The row of the language that was simulated; raises `DataError` where there is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES).decode(errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    found = [row for row in rows if row[0] in ("Verilog", "VHDL") and len(row) >= 5 and row[1] != "NA"]
    if not found:
        raise DataError(f"{path}: needed the report of a co-simulation of Vitis HLS, with a row for Verilog or VHDL; found none that ran")
    _, status, least, mean, largest, *others = found[0]
    return CosimReport(status, (_cycles(least), _cycles(mean), _cycles(largest)), _cycles(others[-1]) if len(others) > 3 else None)


def _cycles(text: str) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None
