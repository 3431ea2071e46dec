"""Decoders: a sequence in any blocks gives what the model over whole sequences gives, in golden, in C++ and in simulated time."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnc.cli import main
from attnc.codegen.graph_file import load_graph, save_graph
from attnc.compiler import begin, compile_model, quantize_model
from attnc.config import CompileOptions
from attnc.decoding.golden import GoldenDecoder
from attnc.decoding.plan import Decoder, plan_decoder
from attnc.errors import AttncError, ConfigError, ModelError, UnsupportedError
from attnc.golden import run_golden
from attnc.ir import GraphError, Held, Node
from attnc.kernels.design import Design, LinearNumbers, NamedEngine
from attnc.ops import verify
from attnc.schedule.cost import estimate
from attnc.schedule.devices import BOARDS
from attnc.schedule.engine import Instruction
from attnc.schedule.file import design_of, read_schedule
from attnc.schedule.patches import Patch, patches
from attnc.schedule.program import Program, Programs, build_program
from attnc.schedule.registers import usual_use
from attnc.sim.backend import CosimBackend
from attnc.verify import golden_backend
from attnc_host import Accelerator, AcceleratorError, InputError
from attnc_host.archive import write_archive
from attnc_host.caches import COPY, DECODE, PREFILL, block_fits
from attnc_host.decoder import Contents, Sampling, Session, decoder_of
from attnc_host.manifest import load
from attnc_host.text import Bytes
from decoding.decoders import VOCABULARY, write_decoder

assert golden_backend  # registers "golden"
LENGTH, BLOCK, SESSIONS = 12, 4, 2
SLOPES = (0.5, 0.25, 0.125, 0.0625)


def planned(path: Path, block: int | None = BLOCK, length: int = LENGTH, cache: str = "int8") -> Decoder:
    state = quantize_model(path, CompileOptions(max_length=length, block=block, cache=cache))
    return plan_decoder(state.model, length, block, SESSIONS, VOCABULARY, path.parent)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return planned(write_decoder(tmp_path_factory.mktemp("decoder") / "decoder.onnx"))


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With positions, a past, a mask, a bias and a window in the file, and caches for two sessions, one layer's a ring."""
    folder = tmp_path_factory.mktemp("decoder")
    path = write_decoder(folder / "decoder.onnx", past=True, mask=True, positions=True, windows=(3,), slopes=SLOPES)
    return compile_model(path, CompileOptions(max_length=LENGTH, block=BLOCK, sessions=SESSIONS, output=folder / "build"))


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_any_sizes_give_the_whole(decoder: Decoder, seed: int) -> None:
    run_in_blocks(decoder, seed)


def run_in_blocks(decoder: Decoder, seed: int) -> None:
    """A sequence in blocks of any sizes, over caches that hold anything, gives the logits of the model over the whole sequence."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, decoder.length)
    rows = decoder.rows(ids, 0)
    graph = decoder.sequence.graph
    whole = run_golden(graph, {graph.inputs[0]: rows[np.newaxis]})[graph.outputs[0]][0]
    golden, position = GoldenDecoder(decoder.model.graph), 0
    for cache in golden.caches.values():
        cache[...] = rng.integers(-100, 100, cache.shape)
    while position < decoder.length:
        count = int(rng.integers(0, BLOCK + 1))
        if count and block_fits(position, BLOCK, decoder.length, decoder.borders):
            block = rng.integers(-100, 100, (BLOCK, rows.shape[1])).astype(rows.dtype)  # what follows the tokens is nobody's
            block[:count] = rows[position : position + count]
            golden.run(PREFILL, position, {decoder.inputs[PREFILL]: block})
            position += count
        else:
            found = golden.run(DECODE, position, {decoder.inputs[DECODE]: rows[position : position + 1]})
            np.testing.assert_array_equal(decoder.logits(found)[0], whole[position])
            position += 1


@pytest.mark.parametrize(
    ("windows", "length", "rings", "slopes"),
    [((5,), 24, [8], SLOPES), ((1,), 24, [8], ()), ((5, 10), 40, [8, 16], ()), ((9,), 12, [], ()), ((), 12, [], SLOPES)],
)
def test_windows_have_rings(windows: tuple[int, ...], length: int, rings: list[int], slopes: tuple[float, ...], tmp_path: Path) -> None:
    """Beside layers that look at everything, those of a window; a ring where that is less than the sequence. Biases that fall with the
    distance of a key need no table."""
    found = planned(write_decoder(tmp_path / "decoder.onnx", windows=windows, slopes=slopes), length=length)
    assert found.rings == rings
    held = {value.held.name: value.held.rows for value in found.model.graph.values.values() if value.held is not None}
    assert sorted(held.values()) == sorted([*rings, *rings, *[length] * (4 - 2 * len(rings))])
    for seed in range(3):
        run_in_blocks(found, seed)
    program = build_program(found.model.graph, Design.of(8, 16, 16), lambda data: None)
    plain = program.encode().astype(np.int64)
    for position in (0, 7, length - BLOCK):
        registers = program.at(dict.fromkeys(program.stated, position), 1)
        patched = plain[:, : program.places[-1]].copy()
        for step, row, changes in zip(program.steps, patched, program.patches, strict=True):
            for patch in changes:
                row[patch.place] += patch.slope * registers.stated[step[0].entry][program.registers[patch.register]]
        np.testing.assert_array_equal(patched, registers.plain())


def test_a_block_over_the_end_of_a_ring_is_refused(tmp_path: Path) -> None:
    found = planned(write_decoder(tmp_path / "decoder.onnx", windows=(5,)), length=24)
    rows = np.zeros((BLOCK, 32), np.int8)
    with pytest.raises(GraphError, match="over the end of"):
        GoldenDecoder(found.model.graph).run(PREFILL, 6, {found.inputs[PREFILL]: rows})


def test_arrays_are_shared_and_caches_held(decoder: Decoder) -> None:
    graph = decoder.model.graph
    verify(graph)
    twins = {node.packed: node for node in graph.nodes if node.entry == PREFILL}
    both = [(twins[node.name], node) for node in graph.nodes if node.entry == DECODE and node.name in twins]
    assert both and all(a.params is b.params for a, b in both)
    held = {value.held.name for value in graph.values.values() if value.held is not None}
    assert len(held) == 4  # keys and values of two layers
    assert len([n for n in graph.nodes if n.entry == PREFILL]) < len([n for n in graph.nodes if n.entry == DECODE])


@pytest.fixture(scope="session")
def program(decoder: Decoder) -> Program:
    return build_program(decoder.model.graph, Design.of(8, 16, 16), lambda data: None)


def test_weights_are_packed_once(decoder: Decoder, program: Program) -> None:
    alone = build_program(decoder.sequence.graph, Design.of(8, 16, 16), lambda data: None)
    assert program.weight_words == alone.weight_words


def test_engines_that_pack_weights_differently_have_their_own(decoder: Decoder, program: Program) -> None:
    """An engine that a design gives one entry alone: both would read what was packed for the first."""
    twins = tuple(node.name for node in decoder.model.graph.nodes if node.op == "linear" and node.entry == DECODE)
    both = [replace(program.design, named=(NamedEngine("token", LinearNumbers(pe=pe), twins),)) for pe in (16, 32)]
    alike, apart = (build_program(decoder.model.graph, design, lambda data: None).weight_words for design in both)
    assert alike == program.weight_words and apart > 1.4 * alike


def test_lanes_that_slopes_need(tmp_path: Path) -> None:
    graph = planned(write_decoder(tmp_path / "decoder.onnx", slopes=SLOPES)).model.graph
    (tmp_path / "schedule.yaml").write_text("schema: 1\ndesign: {lanes: 2, rows: 4, engines: {linear: {pe: 16}}}\n")
    with pytest.raises(ConfigError, match=r"'design\.lanes': needed at least 4"):
        design_of(read_schedule(tmp_path / "schedule.yaml"), tmp_path / "schedule.yaml", graph)


def test_patches_make_the_program_of_any_position(program: Program) -> None:
    code = program.encode().astype(np.int64)
    plain = code[:, : program.places[-1]].copy()
    for position, session in ((0, 0), (3, 1), (LENGTH - BLOCK, 1)):
        expected = program.at(dict.fromkeys(program.stated, position), session).plain()
        patched = plain.copy()
        for row, found in zip(patched, program.patches, strict=True):
            for patch in found:
                row[patch.place] += patch.slope * (position, session)[patch.register]
        np.testing.assert_array_equal(patched, expected)
    assert {patch.register for found in program.patches for patch in found} == {0, 1}


def test_a_search_counts_a_prompt_and_an_answer(decoder: Decoder, program: Program) -> None:
    """Blocks from the start, and a block's tokens behind them: not where an entry takes longest, at its last position."""
    assert usual_use({PREFILL: 448, DECODE: 511}) == {PREFILL: (96, 4), DECODE: (288, 64)}
    assert usual_use(program.last) == {PREFILL: (2, 4), DECODE: (10, BLOCK)} and usual_use({}) == {}
    used, last = (estimate(one, BOARDS["kv260"], 250) for one in (program.in_use, program))
    assert used.entries == estimate(program.at({PREFILL: 2, DECODE: 10}), BOARDS["kv260"], 250).entries
    assert used.served == 4 * used.entries[PREFILL] + BLOCK * used.entries[DECODE] <= last.served
    assert 0 < Programs(decoder.model.graph).least_cycles(program.design) <= used.served


def test_an_integer_that_does_not_follow_is_seen(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Instruction.encode

    def squared(self: Instruction) -> list[int]:
        found = real(self)
        return [*found[:-1], found[-1] + sum(walk.offset**2 for _, walk in self.walks if walk.moves)]

    monkeypatch.setattr(Instruction, "encode", squared)
    with pytest.raises(GraphError, match="does not follow from a register"):
        patches(program.as_stated)


def test_cpp_generates_what_golden_does(build: Path) -> None:
    """The ring comes round, also where no block fits before its end."""
    made = {}
    assert decoder_of(load(build)).rings == (8,)
    for backend in ("golden", "csim"):
        with Accelerator.open(build, backend) as accelerator:
            first, second = accelerator.session(0), accelerator.session(1)
            one = first.generate([1, 2, 3, 4, 5, 6, 7], 5)
            two = second.generate([9], 11, Sampling(0.8, 20, 0.9, 1.2), seed=3)
            made[backend] = [(next(one), next(two)) for _ in range(5)], list(two)
            again = accelerator.session(0)
            again.extend([1, 2, 3, 4, 5, 6])
            made[backend] += tuple(map(float, again.extend([7, 8, 9, 10, 11])))
    assert made["golden"] == made["csim"]
    assert len({token for pair in made["csim"][0] for token in pair}) > 3


def test_generation_in_simulated_time(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same tokens, the cycles of every run near their estimate at its position, and both as tokens per second."""
    with Accelerator.open(build, "golden") as accelerator:
        expected = list(accelerator.generate([1, 2, 3, 4, 5, 6], 6))
    with Accelerator.open(build, "cosim") as accelerator:
        session = accelerator.session(1)
        assert list(session.generate([1, 2, 3, 4, 5, 6], 6)) == expected
        backend = accelerator.backend
        assert isinstance(backend, CosimBackend)
        assert session.runs == [(PREFILL, 0), (PREFILL, BLOCK), *((DECODE, place) for place in range(5, 11))]
        for run, cycles in zip(session.runs, backend.cycles, strict=True):
            assert abs(session.decoder.cycles(*run) / cycles - 1) < 0.1
        later = backend.cycles[3:]
    assert main(["generate", str(build), "--ids", "1,2,3,4,5,6", "--tokens", "6", "--backend", "cosim", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ids"] == expected and said["positions"] == [6, 10] and said["tokens_per_second"] > 0
    assert said["simulated"]["tokens_per_second"] == pytest.approx(5 / sum(later) * said["clock_mhz"] * 1e6, rel=1e-4)
    assert said["simulated"]["last_tokens_per_second"] == pytest.approx(said["clock_mhz"] * 1e6 / later[-1], rel=1e-4)
    assert abs(said["estimated"]["first_token_ms"] / said["simulated"]["first_token_ms"] - 1) < 0.1
    assert main(["generate", str(build), "--ids", "1", "--tokens", "1", "--backend", "golden"]) == 0
    err = capsys.readouterr().err
    assert "this run (golden): 1 tokens" in err and "estimated: the first token after" in err and "simulated" not in err
    assert main(["generate", str(build), "--ids", "1", "--backend", "board"]) == 2
    assert "no board that runs this build was found here" in capsys.readouterr().err


def test_a_board_generates_what_golden_does(build: Path, tmp_path: Path) -> None:
    """The driver behind the virtual board, from an archive: sessions, and golden runs when it is opened."""
    write_archive(load(build), tmp_path / "app.zip")
    with Accelerator.open(build, "golden") as accelerator:
        expected = list(accelerator.generate([1, 2, 3, 4, 5, 6], 5))
    with Accelerator.open(build, "virtual") as accelerator:
        assert list(accelerator.session(1).generate([1, 2, 3, 4, 5, 6], 5)) == expected
    with Accelerator.open(tmp_path / "app.zip", "golden") as accelerator:
        assert list(accelerator.generate([1, 2, 3, 4, 5, 6], 5)) == expected


def test_the_build_says_what_it_was_simulated_at(build: Path) -> None:
    report = json.loads((build / "report.json").read_text())
    assert report["check"] == {"samples": 2, "elements": 2 * VOCABULARY}
    for style in ("stp", "flp"):
        run = report["simulation"][style]
        assert run["bit_exact"] and not run["deadlock"]
        assert sum(one["cycles"] for one in run["entries"].values()) <= run["cycles"]
        for one in run["entries"].values():
            assert abs(one["cycles"] / one["estimate_cycles"] - 1) < 0.1
    estimates = report["decoder"]["estimates"]
    by_place = {(row["entry"], row["position"]): row["cycles"] for row in estimates}
    for runs in report["decoder"]["simulated"].values():
        assert {(one["entry"], one["position"]) for one in runs} >= {(PREFILL, LENGTH - BLOCK), (DECODE, LENGTH // 2), (DECODE, LENGTH - 1)}
        for one in runs:
            assert abs(one["cycles"] / by_place[one["entry"], one["position"]] - 1) < 0.1
    assert {row["entry"] for row in estimates} == {PREFILL, DECODE}
    cost, text = report["estimate"], (build / "report.txt").read_text()
    for entry, at in report["decoder"]["simulated_at"].items():
        own = cost["entries"][entry]
        assert own["cycles"] == by_place[entry, at] == sum(stage["cycles"] for stage in cost["stages"] if stage["entry"] == entry)
        assert own["cycles"] == sum(row["cycles"] for row in own["operators"]) and f"Where the cycles of {entry} go" in text
    decode = {row["position"]: row["cycles"] for row in estimates if row["entry"] == DECODE}
    assert {0, 3, BLOCK, LENGTH // 2, LENGTH - 1} <= set(decode)
    assert list(decode.values()) == sorted(decode.values()) and decode[0] < decode[LENGTH - 1]


def test_a_build_is_estimated_as_it_was_compiled(build: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`attnc estimate` reads the graph of a build: rings and length are there again, and entries are where they were simulated."""
    assert main(["estimate", str(build), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["estimate"] == json.loads((build / "report.json").read_text())["estimate"]


def test_a_graph_is_read_as_it_was_written(decoder: Decoder, tmp_path: Path) -> None:
    graph = copy.deepcopy(decoder.model.graph)
    held = next(value for value in graph.values.values() if value.held is not None)
    held.held = Held("cache", 12, True, 4, 2)
    graph.nodes[0].each, graph.nodes[0].like = "queue", "other"
    (tmp_path / "golden").mkdir()
    save_graph(graph, tmp_path / "golden")
    found = load_graph(tmp_path / "golden")
    assert found.values[held.name].held == held.held and (found.sessions, found.length) == (graph.sessions, graph.length)
    for one, other in zip(found.nodes, graph.nodes, strict=True):
        fields = [field.name for field in dataclasses.fields(Node) if field.name != "params"]
        assert [getattr(one, name) for name in fields] == [getattr(other, name) for name in fields]
        assert all(np.array_equal(one.params[name], array) for name, array in other.params.items())


def test_a_wrong_slope_is_caught(build: Path, tmp_path: Path) -> None:
    """Patches that are not applied give other tokens: what the comparison with golden is for."""
    import shutil

    copy = tmp_path / "build"
    shutil.copytree(build, copy)
    source = copy / "hls" / "attnc_top.cpp"
    text = source.read_text()
    assert "if (j == place) next[j] += more;" in text
    source.write_text(text.replace("if (j == place) next[j] += more;", "if (j == place + 1) next[j] += more;"))
    with pytest.raises(AcceleratorError), Accelerator.open(copy, "csim") as accelerator:  # the checksums of a build
        list(accelerator.generate([1, 2, 3], 4))
    with Accelerator.open(build, "golden") as accelerator:
        right = list(accelerator.generate([1, 2, 3, 4, 5, 6], 6))
    try:
        with Accelerator.open(copy, "csim", verify=False) as accelerator:
            wrong = list(accelerator.generate([1, 2, 3, 4, 5, 6], 6))
    except AcceleratorError:
        return
    assert wrong != right


def test_a_saved_session_goes_on_behind_its_last_token(build: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--session`: two runs give what one with both prompts and the answer between them gives."""

    def generated(ids: list[int], count: int, *more: str) -> list[int]:
        text = ",".join(map(str, ids))
        assert main(["generate", str(build), "--ids", text, "--tokens", str(count), "--backend", "golden", "--json", *more]) == 0
        return list(json.loads(capsys.readouterr().out)["ids"])

    session = ("--session", str(tmp_path / "talk.json"))
    first = generated([1, 2, 3], 3, *session)
    assert json.loads((tmp_path / "talk.json").read_text())["ids"] == [1, 2, 3, *first]
    assert generated([7], 2, *session) == generated([1, 2, 3, *first, 7], 2)
    generated([7, 8], 9, *session)  # to the end, where the last token has no place
    assert len(json.loads((tmp_path / "talk.json").read_text())["ids"]) == LENGTH


def test_a_session_has_one_beginning(
    build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a tokenizer puts in front of a text stands neither in the middle of a session nor in front of a token to stop at."""

    class Begun(Bytes):
        def encode(self, text: str, begins: bool = True) -> list[int]:
            return [9] * begins + super().encode(text)

    monkeypatch.setattr("attnc.cli_generate.open_tokenizer", lambda path, vocabulary: Begun())

    def generated(text: str, *more: str) -> dict[str, list[int]]:
        assert main(["generate", str(build), "--prompt", text, "--tokens", "2", "--backend", "golden", "--json", *more]) == 0
        found: dict[str, list[int]] = json.loads(capsys.readouterr().out)
        return found

    session = ("--session", str(tmp_path / "talk.json"))
    assert generated("\1\2", *session)["prompt_ids"] == [9, 1, 2]
    assert generated("\3", *session)["prompt_ids"] == [3]
    ids = generated("\1\2")["ids"]
    assert generated("\1\2", "--stop", chr(ids[0]))["ids"] == ids[:1]


def test_text_ends_where_its_tokenizer_says(build: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Text comes from stdin, as the bytes 1, 2, 3; `Bytes` has no token that ends a text."""
    with Accelerator.open(build, "golden") as accelerator:
        full = list(accelerator.generate([1, 2, 3], 6))
    monkeypatch.setattr(Bytes, "ends", frozenset(full[2:3]))
    monkeypatch.setattr("attnc.cli_generate.open_tokenizer", lambda path, vocabulary: Bytes())
    monkeypatch.setattr("sys.stdin", io.StringIO("\1\2\3"))
    assert main(["generate", str(build), "--prompt", "-", "--tokens", "6", "--backend", "golden", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["prompt_ids"] == [1, 2, 3] and said["ids"] == full[: full.index(full[2]) + 1]
    assert main(["generate", str(build), "--prompt", "", "--backend", "golden"]) == 2
    assert "--prompt: needed a text of at least one token, found none" in capsys.readouterr().err
    assert main(["generate", str(build), "--prompt", "a\udcff", "--backend", "golden"]) == 2
    assert "--prompt: needed text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (["--ids", "1", "--seed", "-1"], "seed: needed a whole number 0 or more, found -1"),
        (["--ids", "1", "--stop", "48"], "--stop '48': needed a text of one token, or the id of one, 0 to 47"),
        (["--ids", "1", "--session", "nowhere/talk.json"], "--session nowhere/talk.json: there is no folder"),
        (["--prompt", "a"], "the build has no tokenizer"),
        (["--ids", ""], "--ids '': needed whole numbers"),
        (["--ids", "1_0"], "--ids '1_0': needed whole numbers"),
        (["--ids", "1", "--samples", "1000000000000"], "less than or equal to 4096"),
        (["--ids", "1", "--tokens", "0"], "max_new_tokens: needed a whole number 1 or more, found 0"),
        (["--ids", "1", "--temperature", "inf"], "temperature: needed a number 0 or more, found inf"),
        (["--ids", "1", "--session", "/"], "/: a session cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_generated(build: Path, given: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(build), *given, "--backend", "golden"]) == 2
    assert error in capsys.readouterr().err


def test_sessions_are_saved_and_refused(build: Path, tmp_path: Path) -> None:
    with Accelerator.open(build, "golden") as accelerator:
        session = accelerator.session()
        tokens = list(session.generate([1, 2, 3], 4))
        session.save(f"{tmp_path}/talk.json")
        again = accelerator.session(1)
        again.load(f"{tmp_path}/talk.json")
        assert again.ids == session.ids == [1, 2, 3, *tokens[:-1]]
        assert list(again.generate(tokens[-1:], 2)) == list(session.generate(tokens[-1:], 2))
        saved = (tmp_path / "talk.json").read_text()
        for broken, error in {
            json.dumps({"version": 1, "build": "another", "ids": [1]}): "another build",
            json.dumps(json.loads(saved) | {"version": 2}): "needed a saved session of version 1, found 2",
            json.dumps(json.loads(saved) | {"ids": None}): "no saved session: needed 'version', 'build' and a list of 'ids'",
            json.dumps(json.loads(saved) | {"ids": [VOCABULARY]}): f"broken.json: ids: needed tokens from 0 to 47, found {VOCABULARY}",
            json.dumps(json.loads(saved) | {"ids": [1] * (LENGTH + 1)}): "broken.json: ids: .* do not fit",
            **dict.fromkeys(("{", "[" * 100_000, "[]", "null", saved[: len(saved) // 2]), "no saved session"),
        }.items():
            (tmp_path / "broken.json").write_text(broken)
            with pytest.raises(InputError, match=error):
                again.load(tmp_path / "broken.json")
        with pytest.raises(InputError, match="cannot be read: No such file"):
            again.load(tmp_path / "nowhere.json")
        with pytest.raises(InputError, match="cannot be saved there: No such file"):
            again.save(tmp_path / "nowhere" / "talk.json")


@pytest.mark.parametrize("backend", ["golden", "csim", "virtual"])
def test_beginnings_are_shared(build: Path, backend: str) -> None:
    """What caches hold of a prompt is not worked on again, in the same session or copied to another; a ring that has come round is."""
    runs: list[int] = []

    def counted(image: np.ndarray, scalars: dict[str, int]) -> np.ndarray:
        runs.append(scalars["first"])
        return accelerator._in_turn(image, scalars)

    with Accelerator.open(build, backend) as accelerator:
        alone = Session(accelerator.manifest, accelerator._in_turn, 1)
        expected = [alone.extend([1, 2, 3, 4, 5, 6]), alone.extend([9, 8, 7])]
        shared: dict[int, Contents] = {}
        first, second = (Session(accelerator.manifest, counted, number, shared) for number in (0, 1))
        np.testing.assert_array_equal(first.extend([1, 2, 3, 4, 5, 6]), expected[0])
        assert len(runs) == 3  # a block, the rest, and one
        other = first.fork(1)
        np.testing.assert_array_equal(other.extend([9, 8, 7]), expected[1])
        assert runs[3:4] == [COPY] and other.ids == [1, 2, 3, 4, 5, 6, 9, 8, 7]
        runs.clear()
        np.testing.assert_array_equal(second.extend([1, 2, 3, 4, 5, 6, 9, 8, 7]), expected[1])
        assert len(runs) == 1
        with pytest.raises(InputError, match="hold another sequence by now"):
            first.ids = [*first.ids, 7]
            first.extend([1])
        runs.clear()
        third = Session(accelerator.manifest, counted, 0, shared)
        third.extend([1, 2, 3, 4, 5, 6, 9, 8, 7, 1, 2])
        assert runs.pop(0) == COPY and len(runs) == 2
        runs.clear()
        del shared[1]
        fourth = Session(accelerator.manifest, counted, 0, shared)
        np.testing.assert_array_equal(fourth.extend([1, 2, 3, 4, 5, 6]), expected[0])
        assert len(runs) == 3  # the ring holds tokens 4 to 11
        with pytest.raises(InputError, match="needs caches of its own"):
            fourth.fork(0)


def test_a_conversation_that_goes_on_is_not_worked_on_again(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the service is asked: everything so far, and more."""
    with Accelerator.open(build, "virtual", checks="all") as accelerator:
        run, runs = accelerator._in_turn, list[int]()

        def counted(image: np.ndarray, scalars: dict[str, int]) -> np.ndarray:
            runs.append(scalars["position"])
            return run(image, scalars)

        monkeypatch.setattr(accelerator, "_in_turn", counted)
        (token,) = accelerator.generate([1, 2, 3, 4, 5, 6], 1)
        first = len(runs)
        expected = list(accelerator.generate([1, 2, 3, 4, 5, 6, token, 7], 2))
        assert runs[first:] == [6, 7, 8]
        accelerator.session(0).fork(1)
        other = accelerator.session(1)
        assert list(other.generate([1, 2, 3, 4, 5, 6, token, 7], 2)) == expected


def test_generation_ends_where_it_should(build: Path) -> None:
    with Accelerator.open(build, "golden") as accelerator:
        full = list(accelerator.generate([1, 2, 3], 100))
        assert len(full) == LENGTH - 3 + 1  # the last one needs no place
        stopped = list(accelerator.generate([1, 2, 3], 100, stop=[full[2]]))
        assert stopped == full[: full.index(full[2]) + 1]


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([], "at least one token"),
        ([1, VOCABULARY], f"from 0 to {VOCABULARY - 1}, found {VOCABULARY}"),
        ([-1], "found -1"),
        ([0.5], "whole numbers"),
        ([[1, 2]], "whole numbers"),
        ([1, [2]], "whole numbers"),
        ([10**30], f"found {10**30}"),
        ([1] * (LENGTH + 1), f"do not fit the {LENGTH}"),
    ],
)
def test_prompts_that_cannot_be(build: Path, ids: list[int], error: str) -> None:
    with Accelerator.open(build, "golden") as accelerator, pytest.raises(InputError, match=error):
        list(accelerator.generate(ids, 1))


def test_what_decoders_are_not(build: Path) -> None:
    with Accelerator.open(build, "golden") as accelerator:
        with pytest.raises(InputError, match="use generate"):
            accelerator.run({"input_ids": np.zeros((1, LENGTH), np.int64)})
        with pytest.raises(InputError, match="caches for 2"):
            accelerator.session(2)
        for count in (0, 1.5, "1", None):
            with pytest.raises(InputError, match="max_new_tokens: needed a whole number 1 or more"):
                list(accelerator.generate([1], count))  # type: ignore[arg-type]
        for options in ({"seed": 0.5}, {"stop": 3}, {"stop": [VOCABULARY]}, {"stop": ["x"]}):
            with pytest.raises(InputError, match=f"{next(iter(options))}: needed"):
                list(accelerator.generate_many([[1], [2]], 1, **options))
        with pytest.raises(InputError, match="prompts: needed a list of at least one, found 5"):
            list(accelerator.generate_many(5, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"top_p": 0.0}, {"temperature": float("inf")}, {"top_k": 1.5}, {"repetition_penalty": float("nan")}])
def test_choices_that_cannot_be(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(given))}: needed a"):
        Sampling(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("slopes", [(-0.5,) * 4, (0.5, 0.25, -0.125, 0.0625)])
def test_biases_that_rise_are_refused(slopes: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not the distance of a key times a falling slope"):
        planned(write_decoder(tmp_path / "decoder.onnx", slopes=slopes))


@pytest.mark.parametrize("given", ["two inputs", "block", "not causal"])
def test_models_that_cannot_be_decoded(given: str, tmp_path: Path) -> None:
    if given == "two inputs":
        import onnx

        from attnc.frontend.sequence import bind_sequence

        model = onnx.load(write_decoder(tmp_path / "decoder.onnx"))
        model.graph.input[0].name = "past_ids"
        with pytest.raises(ModelError, match="one input of token ids"):
            bind_sequence(model, LENGTH, "decoder.onnx")
        return
    path = write_decoder(tmp_path / "decoder.onnx", **({"is_causal": 0} if given == "not causal" else {}))
    if given == "not causal":
        with pytest.raises(UnsupportedError, match="attends to later ones"):
            planned(path)
        return
    with pytest.raises(ConfigError, match="--block 12"):
        planned(path, 12)


def test_all_token_ids_are_cut_into_sequences(tmp_path: Path) -> None:
    """Those that figures are measured on too."""
    ids = np.arange(3 * 50).reshape(3, 50) % VOCABULARY
    for name in ("calib", "heldout"):
        np.savez(tmp_path / f"{name}.npz", input_ids=ids)
    given = CompileOptions(max_length=LENGTH, calib=tmp_path / "calib.npz", heldout=tmp_path / "heldout.npz")
    state = begin(write_decoder(tmp_path / "decoder.onnx"), given, lambda text: None)
    assert state.unseen is not None
    for found in (state.samples, state.unseen):
        np.testing.assert_array_equal(found["input_ids"][:2, 0], ids.ravel()[: 2 * LENGTH].reshape(2, LENGTH))


def test_options_are_named_as_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "decoder.onnx", "--max-length", "1"]) == 2
    assert "error: --max-length: Input should be greater" in capsys.readouterr().err


def test_sampling_takes_what_it_says() -> None:
    logits, rng = np.array([0.0, 3.0, 2.0, 3.0]), np.random.default_rng(0)
    assert Sampling().choose(logits, [], rng) == 1
    assert Sampling(repetition_penalty=2.0).choose(logits, [1], rng) == 3
    assert Sampling(1.0, repetition_penalty=1e-320).choose(logits, [2], rng) == 2
    assert {Sampling(1.0, top_k=2).choose(logits, [], rng) for _ in range(200)} == {1, 3}
    assert {Sampling(1.0, top_p=0.5).choose(logits, [], rng) for _ in range(200)} == {1, 3}
    counts = np.bincount([Sampling(1.0).choose(logits, [], rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, np.exp(logits) / np.exp(logits).sum(), atol=0.03)
    assert isinstance(Patch(0, 0, 1), tuple) and issubclass(UnsupportedError, AttncError)
