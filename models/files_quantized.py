"""Files as quantizers write them."""

from __future__ import annotations

from models.file_kinds import Kind

KINDS: list[Kind] = []
