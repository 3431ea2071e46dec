"""Emitted projects pass every check: no exception is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthesis.lint import lint_project
from synthesis.projects import PROJECTS, emit


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_has_no_finding(name: str, tmp_path: Path) -> None:
    assert not (found := lint_project(emit(name, tmp_path))), "\n".join(map(str, found))
