"""Families of the zoo, compiled and simulated; the others are slow, and `make zoo` runs them all."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")
from models import zoo
from models.families import FAMILIES

QUICK = {("bert", "dynamo"), ("whisper", "torchscript"), ("gpt2", "dynamo")}
ALL = [(name, exporter) for name, family in FAMILIES.items() for exporter in family.exporters]
MARKED = [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow, id="-".join(pair)) for pair in ALL]
LEAST_DB, OFF_DB = 20.0, 2.0
"""Catches what is broken; and how far what the report promises may be off on other samples. The target is 30 dB; a family that stays below
must have its reasons in the table."""

MISSED = {"sqnr_db": 29.0, "heldout_db": 29.5, "promised_db": 28.0, "ratio": 0.97, "far": {}}


@pytest.mark.parametrize(("name", "exporter"), MARKED)
def test_family(tmp_path: Path, name: str, exporter: str) -> None:
    row = zoo.measure(name, exporter, tmp_path)
    assert row["elements"] > 0
    assert row["sqnr_db"] >= max(LEAST_DB, row["promised_db"] - OFF_DB)
    assert row["binding"] or row["promised_db"] >= zoo.TARGET_DB - OFF_DB
    assert not zoo.failed(row) and row["varying"] >= zoo.LEAST_VARYING
    assert row["device"] > 0 and row["estimate"] > 0
    # It ran to its end in both styles, with the depths of FIFOs that are emitted, and took what was estimated, in every stage of note.
    assert list(row["simulated"]) == ["stp", "flp"] and abs(row["ratio"] - 1) <= zoo.NEAR and not row["far"]


def test_table_shows_failures(capsys: pytest.CaptureFixture[str]) -> None:
    good = {"device": 1, "host": 2, "elements": 3, **MISSED, "varying": 0.5, "wide": 5}
    good |= {"estimate": 400, "simulated": {"stp": 388, "flp": 377}}
    binding = [{"op": "linear", "node": "n", "percent": 41.4, "why": "weights of int2"}]
    rows = [
        {"family": "a", "exporter": "dynamo", **good, "binding": binding, "causes": "weights of int2 80 %"},
        {"family": "b", "exporter": "dynamo", "error": "no"},
    ]
    zoo.show(rows)
    text = capsys.readouterr().out
    assert (
        "weights of int2 80 %" in " ".join(text.split())
        and "n (weights of int2, 41 %)" in " ".join(text.split())
        and " 5 " in text
        and all(number in text for number in ("400", "388", "377", "0.97"))
        and "failed: no" in text
        and "1 of 2 compile" in text
    )


def test_a_target_missed_by_chance_has_no_cause() -> None:
    row = {**MISSED, "varying": 0.5, "heldout_db": 30.5, "binding": [], "causes": ""}
    assert zoo.remark(row) == "30.5 dB held out, 28.0 less what chance may hide"
    assert zoo.remark({**row, "sqnr_db": 30.0}) == ""


def test_what_is_far_from_its_estimate_is_named() -> None:
    stages = [{"nodes": ["x", "near"], "cycles": 119}, {"nodes": ["slow"], "cycles": 130}, {"nodes": ["quick"], "cycles": 60}]
    few = {"nodes": ["few"], "cycles": 12, "estimate_cycles": 4}
    run = {"cycles": 1000, "stages": [*({**stage, "estimate_cycles": 100} for stage in stages), few]}
    found = zoo.far_stages({"styles": {"stp": run, "flp": {**run, "stages": [{**run["stages"][1], "cycles": 125}]}}})
    assert found == {"slow": 1.3, "quick": 0.6}
    row = {**MISSED, "varying": 0.5, "sqnr_db": 30.0, "ratio": 1.12, "far": found}
    assert zoo.remark(row) == "stages far from their estimates: slow 1.30, quick 0.60 1.12 of the estimate "


def test_outputs_that_ignore_the_inputs_are_a_failure() -> None:
    assert zoo.failed({"varying": 0.0}) and not zoo.failed({"varying": 0.5}) and zoo.failed({"varying": 0.5, "error": "stands still"})


def test_unknown_family_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        zoo.main(["nothing"])
    assert caught.value.code == 2 and "nothing" in capsys.readouterr().err


def test_a_family_that_cannot_be_built_is_a_row(tmp_path: Path) -> None:
    row = zoo.run_one("nothing", "dynamo", tmp_path)
    assert zoo.failed(row) and "nothing" in row["error"]
