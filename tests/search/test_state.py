"""The state of a search: found again, or refused loudly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from attnc.errors import ConfigError
from attnc.quant.weight_config import LayerSettings
from attnc.quant.weights import quantize
from attnc.search.budget import Score
from attnc.search.state import Store, fingerprint
from attnc.weights import WeightFormat

INT4 = LayerSettings("int4", 32, "mse", "static", "auto")
WEIGHT = quantize("mse", np.random.default_rng(0).normal(size=(6, 64)), WeightFormat.parse("int4", 32), None, "a")


def filled(folder: Path, key: str = "key") -> Store:
    store = Store(folder, key, print)
    store.put_weight("a", INT4, WEIGHT, 0.25)
    store.put_gain("a", 2.0)
    store.put_score("b", Score(1 / 3, 0.125))
    return store


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "x.search"
    filled(folder)
    notes: list[str] = []
    store = Store(folder, "key", notes.append)
    assert store.resumed == 2 and not notes
    assert (store.error("a", INT4), store.gain("a"), store.score("b")) == (0.25, 2.0, Score(1 / 3, 0.125))
    assert store.error("b", INT4) is None and store.gain("b") is None and store.score("a") is None
    found = store.weight("a", INT4)
    np.testing.assert_array_equal(found.dequantize(), WEIGHT.dequantize())
    assert found.format == WEIGHT.format and found.q.dtype == np.int8


def test_another_key_starts_afresh(tmp_path: Path) -> None:
    filled(tmp_path / "s")
    notes: list[str] = []
    store = Store(tmp_path / "s", "other", notes.append)
    assert store.resumed == 0 and "belongs to another model, other samples, other settings or another version of attnc" in notes[0]
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["state.json"]


@pytest.mark.parametrize("cut", [0, 1, 50, 200, -1])
def test_a_cut_file_starts_afresh(tmp_path: Path, cut: int) -> None:
    filled(tmp_path)
    text = (tmp_path / "state.json").read_text()
    (tmp_path / "state.json").write_text(text[: len(text) + cut - 1 if cut < 0 else cut])
    notes: list[str] = []
    assert Store(tmp_path, "key", notes.append).resumed == 0 and "damaged" in notes[0] and "afresh" in notes[0]


@pytest.mark.parametrize("change", [{"scores": {"b": [0.5, 0.0]}}, {"schema": 2}, {"weights": None}, {"gains": {"a": 3}}])
def test_a_changed_file_starts_afresh(tmp_path: Path, change: dict[str, object]) -> None:
    filled(tmp_path)
    data = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**data, **change}))
    notes: list[str] = []
    assert Store(tmp_path, "key", notes.append).resumed == 0 and "afresh" in notes[0]


def test_a_damaged_weight_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path)
    path = next(tmp_path.glob("*.npz"))
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    notes: list[str] = []
    store = Store(tmp_path, "key", notes.append)
    assert store.error("a", INT4) is None and store.score("b") == Score(1 / 3, 0.125) and "is made again" in notes[0]


def test_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="no search made it"):
        Store(tmp_path / "mine", "key", print)
    with pytest.raises(ConfigError, match="needed a folder"):
        Store(tmp_path / "mine" / "thesis.txt", "key", print)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_fingerprints_see_every_part() -> None:
    array = np.arange(6.0)
    same = {"b": [1, array], "a": None}
    assert fingerprint(same) == fingerprint({"a": None, "b": [1, array.copy()]})
    others = [
        {"b": [1, array.reshape(2, 3)]},
        {"b": [1, array.astype("f4")]},
        {"b": [2, array]},
        {"b": [1, array + 1e-12]},
        {"b": [1], "c": array},
    ]
    assert len({fingerprint(part) for part in [same, *({"a": None, **other} for other in others)]}) == 6
