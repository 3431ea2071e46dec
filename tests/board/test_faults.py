"""Whatever goes wrong on a board ends in a clear error, or in the retry that the user asked for: never a wrong answer, never a hang."""

from __future__ import annotations

import re

import pytest

from attnc_host.virtual.faults import KINDS
from board.cases import CASES, Bench, Case, naive, outcome


def test_every_fault_has_a_case() -> None:
    assert {one.fault["kind"] for one in CASES} == KINDS.keys()


@pytest.mark.parametrize("one", CASES, ids=str)
def test_fault(one: Case, bench: Bench) -> None:
    ends, recovered = outcome(bench, one)
    if one.ends == "equal":
        assert (ends, recovered) == ("equal", one.recovered)
    else:
        assert re.search(one.ends, ends), ends


WITHOUT_CARE = {(one.fault["kind"], one.fault.get("where"), one.naive): one for one in CASES}


@pytest.mark.parametrize("one", WITHOUT_CARE.values(), ids=str)
def test_a_fault_harms_a_driver_without_care(one: Case, bench: Bench) -> None:
    """So that every test above can fail."""
    assert naive(bench, one) == one.naive


def test_what_only_all_checks_see(bench: Bench) -> None:
    """The default is told to miss bits that flip while nobody looks: the README says so."""
    for where in ("activations", "outputs"):
        one = Case({"kind": "flip", "where": where, "skip": 1}, "wrong")
        assert outcome(bench, one)[0] == "wrong"
