"""Branches of a sequence that decode together over one cache: each gets the integers that it would get alone, in golden, in C++ and in
simulated time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from attnc.compiler import compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.plan import Decoder, check_runs, plan_decoder
from attnc.errors import AttncError, ConfigError, UnsupportedError
from attnc.kernels.design import Design
from attnc.ops.attention_sizes import Mask
from attnc.schedule.program import build_program
from attnc.sim.backend import CosimBackend
from attnc.verify import golden_backend
from attnc_host import Accelerator, InputError, backends
from attnc_host.backends import Backend
from attnc_host.branches import generate_many, room, shared
from attnc_host.caches import BATCH, DECODE, PREFILL
from attnc_host.decoder import Sampling, decoder_of
from attnc_host.manifest import load
from attnc_host.selftest import selftest
from decoding.decoders import VOCABULARY, write_decoder

assert golden_backend  # registers "golden"
LENGTH, BLOCK, BRANCHES = 23, 8, 4
SCHEDULE = "schema: 1\ndesign: {lanes: 4, beat: 2, rows: 8, engines: {attention: {queries: 8, keys: 4}, linear: {pe: 16}}}\n"
"""Four keys at a time where a query is alone: those of branches come in the same steps."""
FREE = Sampling(1.0)


def planned(path: Path, branches: int, length: int = LENGTH, cache: str = "int8", block: int = BLOCK) -> Decoder:
    state = quantize_model(path, CompileOptions(max_length=length, cache=cache, batch=branches or None))
    return plan_decoder(state.model, length, block, 1, VOCABULARY, path.parent, branches)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("branches") / "decoder.onnx", rotary=True)


@pytest.fixture(scope="module")
def decoder(model: Path) -> Decoder:
    return planned(model, BRANCHES)


@pytest.fixture(scope="module")
def build(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and values of 4 bits. It was simulated in time when it was compiled."""
    folder = tmp_path_factory.mktemp("branches")
    (folder / "schedule.yaml").write_text(SCHEDULE)
    own = {"max_length": LENGTH, "block": BLOCK, "batch": BRANCHES, "sessions": 2, "cache": "int4", "schedule": folder / "schedule.yaml"}
    return compile_model(model, CompileOptions(**own, output=folder / "build"))


@pytest.mark.parametrize(("branches", "cache", "seed"), [(2, "int8", 0), (4, "int4", 1), (4, "k4v8", 2), (8, "int8", 3)])
def test_branches_get_what_sequences_of_their_own_get(model: Path, branches: int, cache: str, seed: int) -> None:
    """Behind a prefix of any length, none too, over caches that hold anything; as many tokens as there is place for."""
    found, rng = planned(model, branches, 24, cache, 12), np.random.default_rng(seed)
    for prefix in (0, int(rng.integers(1, found.length - branches)), found.length - branches):
        together = GoldenDecoder(found.model.graph)
        for held in together.caches.values():
            held[...] = rng.integers(-8, 8, held.shape)
        ids = rng.integers(0, VOCABULARY, found.length)
        for position in range(prefix):
            together.run(DECODE, position, {found.inputs[DECODE]: found.rows(ids[position : position + 1], position)})
        alone = [together.copy() for _ in range(branches)]
        for position in range(prefix, prefix + (found.length - prefix) // branches):
            rows = found.together(rng.integers(0, VOCABULARY, branches), position)
            (logits,) = together.run(BATCH, position, {found.inputs[BATCH]: rows}, prefix).values()
            own = [one.run(DECODE, position, {found.inputs[DECODE]: rows[[at]]}) for at, one in enumerate(alone)]
            np.testing.assert_array_equal(logits, np.concatenate([next(iter(each.values())) for each in own]))


def test_their_caches_have_one_precision(model: Path) -> None:
    """Where those of one sequence would have bytes of some tokens."""
    found = planned(model, BRANCHES, 120, "int4")
    assert {value.type.bits for value in found.model.graph.values.values() if value.held is not None and value.type} == {4}
    state = quantize_model(model, CompileOptions(max_length=120, cache="int4"))
    with pytest.raises(UnsupportedError, match="keys or values have two precisions, which --batch 4 cannot do"):
        plan_decoder(state.model, 120, BLOCK, 1, VOCABULARY, model.parent, BRANCHES)


def test_a_wrong_mask_is_seen(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of the test bench are compared with sequences of their own before they are written."""
    ids = np.arange(LENGTH) % VOCABULARY
    assert [(run.entry, run.position) for run in check_runs(decoder, ids)] == [(PREFILL, 0), (DECODE, BLOCK), (BATCH, BLOCK)]
    real = Mask.allowed
    monkeypatch.setattr(Mask, "allowed", lambda self, queries, keys: real(Mask(self.offset, self.before, self.after), queries, keys))
    with pytest.raises(AttncError, match="branch 1 differs from a sequence of its own at position 8"):
        check_runs(decoder, ids)


@pytest.mark.parametrize("numbers", [(16, 8, 1), (2, 2, 2), (8, 4, 4)])
def test_patches_make_the_program_of_any_prefix(decoder: Decoder, numbers: tuple[int, int, int]) -> None:
    """Branches in one block of rows or in two, keys one by one or several at a time."""
    rows, queries, keys = numbers
    program = build_program(decoder.model.graph, Design.of(4, 16, queries, rows).having(keys=keys), lambda data: None)
    plain = program.encode().astype(np.int64)[:, : program.places[-1]]
    assert program.given == ("position", "session", "prefix") and program.start(BATCH, 9)[2:] == [9, 0, 9]
    for position, prefix in ((0, 0), (3, 2), (7, 7), (6, 0)):
        own = {"position": position, "session": 1, "prefix": prefix}
        own |= {each.name: each.at(own[each.of]) for each in program.derived}
        patched = plain.copy()
        for row, found in zip(patched, program.patches, strict=True):
            for patch in found:
                row[patch.place] += patch.slope * own[program.registers[patch.register]]
        np.testing.assert_array_equal(patched, program.holding(dict.fromkeys(program.stated, own)).plain())


PROMPTS = {
    "samples of a prompt": ([[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 4, 3),
    "fewer than branches": ([[5, 4, 3]] * 3, 4),
    "prompts that begin alike": ([[1, 2, 3, 4, 5], [1, 2, 3, 9], [1, 2, 3], [1, 2, 3, 7, 7, 7]], 3),
    "nothing in common": ([[4], [5, 6]], 4),
    "more than there is place for": ([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] * 5, 6),
}


@pytest.mark.parametrize("backend", ["golden", "csim", "cosim", "virtual"])
def test_texts_are_those_of_sequences_of_their_own(build: Path, backend: str) -> None:
    with Accelerator.open(build, backend) as accelerator:
        for prompts, count in PROMPTS.values():
            found: dict[int, list[int]] = {}
            for number, token in accelerator.generate_many(prompts, count, sampling=FREE, seed=5):
                found.setdefault(number, []).append(token)
            for number, ids in enumerate(prompts):
                assert found[number] == list(accelerator.generate(ids, count, sampling=FREE, seed=5 + number))


def test_a_prefix_is_worked_on_once(build: Path) -> None:
    """Then a run gives every branch a token; what has no place goes on alone, and one that has ended costs no run."""
    with Accelerator.open(build, "golden") as accelerator:
        session = accelerator.session()
        first = list(generate_many(session, [[1, 2, 3, 4, 5, 6]] * 4, 3, FREE))
        assert session.runs == [(PREFILL, 0), (BATCH, 5), (BATCH, 9), (BATCH, 13)] and [number for number, _ in first] == [0, 1, 2, 3] * 3
        session.runs.clear()
        list(generate_many(session, [[1, 2, 3, 4, 5, 7], [1, 2, 3, 4, 5, 6, 8]], 1, FREE))
        assert session.runs == [(BATCH, 5), (BATCH, 9)]  # the beginning is there
        session.runs.clear()
        stop = [token for number, token in first[:4] if number != 2]
        ended = list(generate_many(session, [[1, 2, 3, 4, 5, 6]] * 4, 6, FREE, stop))
        assert sum(entry == BATCH for entry, _ in session.runs) == room(session.decoder, 5) - 5 == 4
        assert {number for number, _ in ended[4:]} == {2} and [number for number, _ in ended].count(2) == 6
        assert [entry for entry, _ in session.runs[-2:]] == [DECODE] * 2
        full = list(generate_many(session, [[1] * (LENGTH - 1)] * 2, 9))
        assert [number for number, _ in full] == [0, 0, 1, 1]  # the last one needs no place


def test_branches_in_simulated_time(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cycles of each run near their estimate; one run gives four tokens in less time than two runs of one."""
    with Accelerator.open(build, "cosim") as accelerator:
        session, backend = accelerator.session(), accelerator.backend
        assert isinstance(backend, CosimBackend)
        list(generate_many(session, [[1, 2, 3, 4, 5]] * 4, 2))
        for run, cycles in zip(session.runs, backend.cycles, strict=True):
            assert abs(session.decoder.cycles(*run) / cycles - 1) < 0.1
        (together,) = backend.cycles[2:]
        list(accelerator.generate([1, 2, 3, 4, 5], 2))
        assert together < 2 * backend.cycles[-1]
    report = json.loads((build / "report.json").read_text())
    assert report["decoder"]["branches"] == BRANCHES and report["decoder"]["simulated_at"][BATCH] == BLOCK
    for style in ("stp", "flp"):
        run = report["simulation"][style]
        assert run["bit_exact"] and not run["deadlock"] and BATCH in run["entries"]
        assert {one["position"] for one in report["decoder"]["simulated"][style] if one["entry"] == BATCH} == {11, LENGTH - BRANCHES}
    assert f"for {BRANCHES}:" in (build / "report.txt").read_text()
    assert main(["generate", str(build), "--ids", "1,2,3,4", "--tokens", "3", "--samples", "4", "--temperature", "1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tokens"] == 12 and len({tuple(one["ids"]) for one in said["samples"]}) == 4 and said["together"] == 4
    assert main(["generate", str(build), "--ids", "1,2", "--samples", "2", "--session", "talk.json"]) == 2
    assert main(["generate", str(build), "--ids", "1,2", "--samples", "2", "--tokens", "2"]) == 0
    shown = capsys.readouterr()
    assert "--- 2 of 2" in shown.out and "4 together" in shown.err


def test_a_head_on_the_host_serves_every_branch(tmp_path: Path) -> None:
    """With a scale for each token, which the device gives beside its row; learned positions, and a branch for each of two tokens."""
    path = write_decoder(tmp_path / "decoder.onnx", positions=True)
    own = {"max_length": LENGTH, "block": BLOCK, "batch": 2, "head": "host", "activations": "dynamic", "weights": "ternary"}
    (tmp_path / "schedule.yaml").write_text(SCHEDULE)
    given = CompileOptions(**own, schedule=tmp_path / "schedule.yaml", check=False, output=tmp_path / "build")
    with Accelerator.open(compile_model(path, given), "golden") as accelerator:
        found = list(accelerator.generate_many([[1, 2, 3, 4], [1, 2, 9]], 3, sampling=FREE, seed=7))
        for number, ids in enumerate([[1, 2, 3, 4], [1, 2, 9]]):
            expected = list(accelerator.generate(ids, 3, sampling=FREE, seed=7 + number))
            assert [token for branch, token in found if branch == number] == expected
        rows = {row["entry"]: row for row in accelerator.manifest.data["decoder"]["estimates"]}
        session = accelerator.session()
        assert len(list(generate_many(session, [[1, *[2] * 14], [1, *[3] * 14]], 1))) == 2  # too long for any to get a token together
        assert BATCH not in {entry for entry, _ in session.runs}
        assert rows[BATCH]["host_ms"] == pytest.approx(2 * rows[DECODE]["host_ms"], rel=1e-3)


def test_a_board_is_timed_by_a_token(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors of both entries are compared, what they write and no more; timed is the token alone."""
    execute, runs, manifest = backends.execute, list[int](), load(build)

    def counted(device: Backend, images: np.ndarray, scalars: Mapping[str, int]) -> np.ndarray:
        runs.append(scalars["first"])
        return execute(device, images, scalars)

    monkeypatch.setattr(backends, "execute", counted)
    found, entries = selftest(build, "golden", runs=2), decoder_of(manifest).entries
    fetches = {fetch.value: fetch.words for fetch in manifest.fetches}
    words = sum(fetches[name] for entry in (DECODE, BATCH) for name in entries[entry].outputs)
    assert (found["vectors"], found["bytes"], found["mismatches"]) == (2, words * manifest.lanes, 0)
    assert runs == [entries[name].first for name in (PREFILL, DECODE, BATCH, DECODE, DECODE, DECODE)]


def test_what_they_have_in_common() -> None:
    assert (
        shared([[1, 2, 3], [1, 2, 4, 5]]) == 2
        and shared([[1, 2, 3], [1, 2, 3]]) == 2
        and shared([[1], [1, 2]]) == shared([[1, 2], [2, 2]]) == 0
    )


def test_requests_that_cannot_be(build: Path, model: Path) -> None:
    with Accelerator.open(build, "golden") as accelerator:
        for prompts, tokens, error in (
            ([], 1, "at least one, found \\[\\]"),
            ([[1]], 0, "max_new_tokens"),
            ([[1], []], 1, "at least one token"),
        ):
            with pytest.raises(InputError, match=error):
                list(accelerator.generate_many(prompts, tokens))
    state = quantize_model(model, CompileOptions(max_length=LENGTH))
    for branches in (3, 8, 16):
        with pytest.raises(ConfigError, match=f"--batch {branches}: needs a power of two, fewer than the 8 tokens of --block"):
            plan_decoder(state.model, LENGTH, BLOCK, 1, VOCABULARY, model.parent, branches)


@pytest.mark.parametrize(
    ("given", "why"), [({"windows": (5,)}, "a window of tokens"), ({"slopes": (0.5,) * 4}, "with the distance of a key")]
)
def test_models_that_have_no_branches(given: dict[str, tuple[float, ...]], why: str, tmp_path: Path) -> None:
    path = write_decoder(tmp_path / "decoder.onnx", **given)
    with pytest.raises(UnsupportedError, match=f"{why}, which --batch 4 cannot do"):
        planned(path, BRANCHES)
    planned(path, 0)
