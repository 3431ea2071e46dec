"""One service over the small build for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attnc_host import Accelerator
from attnc_host.serve.limits import Limits
from serving import Running, serving


@pytest.fixture(scope="session")
def running(shared_build: Path) -> Iterator[Running]:
    with serving(lambda: Accelerator.open(shared_build, "golden"), Limits(body=1 << 16)) as found:
        yield found


@pytest.fixture(scope="session")
def golden(shared_build: Path) -> Iterator[Accelerator]:
    with Accelerator.open(shared_build, "golden") as accelerator:
        yield accelerator
