"""Faults of any kind at any time, one or two of them: an answer is golden's, or there is none."""

from __future__ import annotations

import random

import pytest

from attnc_host.virtual.faults import KINDS
from board.cases import ALWAYS, Bench, Case, outcome

WHERE = {"flip": ("weights", "program", "inputs", "activations", "outputs")}
STORES = ("outputs", "activations")
ONLY_ALL = ("flip", "reordered store", "short store")
"""Kinds that the checks "open" do not see when they strike while the accelerator computes."""


def drawn(seed: int, checks: str) -> tuple[Case, list[dict[str, object]]]:
    """Faults that these checks see, and how the driver is opened."""
    kinds = [kind for kind in sorted(KINDS) if checks == "all" or kind not in ONLY_ALL]
    rng = random.Random(seed)
    faults = []
    for _ in range(rng.choice((1, 1, 2))):
        kind = rng.choice(kinds)
        where = rng.choice(WHERE.get(kind, STORES if "store" in kind else ("",)))
        value = {
            "flip": rng.randrange(1, 250),
            "power": rng.choice((1e-6, 0.01, 0.3, 1000)),
            "done late": rng.choice((1e-5, 0.1, 1, 1000)),
            "short load": rng.choice((1, 8, 16, 64)),
            "short store": rng.choice((8, 16, 64)),
            "moved registers": rng.choice((-1, 1)),
        }.get(kind, 0)
        faults.append({"kind": kind, "where": where, "value": value, "times": rng.choice((1, 1, 1, 3, ALWAYS)), "skip": rng.randrange(12)})
    options = {"checks": checks, "retries": rng.choice((0, 1, 3))}
    return Case(faults[0], "", options=options, bitstream=rng.random() < 0.7), faults


def check(seeds: range, checks: str, bench: Bench) -> None:
    ends = {seed: outcome(bench, *drawn(seed, checks))[0] for seed in seeds}
    wrong = [f"seed {seed}: {drawn(seed, checks)}" for seed, end in ends.items() if end == "wrong"]
    assert not wrong, "\n".join(wrong)
    assert {"equal"} < set(ends.values())  # some of either kind


@pytest.mark.parametrize("checks", ["open", "all"])
def test_never_a_wrong_answer(checks: str, bench: Bench) -> None:
    check(range(30), checks, bench)


@pytest.mark.slow
@pytest.mark.parametrize("checks", ["open", "all"])
def test_never_a_wrong_answer_at_length(checks: str, bench: Bench) -> None:
    check(range(30, 1000), checks, bench)
