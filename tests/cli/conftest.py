"""The build of the shipped model, by the name that these tests know it by."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compiled(digits: Path) -> Path:
    return digits
