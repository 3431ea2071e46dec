"""Attention to a query alone, several keys and values of a cache at a time: C++ and simulated time against golden, and when it is used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnc.compiler import compile_model
from attnc.config import CompileOptions
from attnc.decoding.plan import Decoder
from attnc.errors import ConfigError
from attnc.kernels.call import steps_to
from attnc.kernels.design import AttentionNumbers, Design, LinearNumbers
from attnc.schedule.cost import LOADER, PORT, engine_resources
from attnc.schedule.file import read_schedule
from attnc.schedule.program import Program, build_program
from attnc.schedule.refine import neighbours
from attnc.verify import golden_backend
from attnc_host import Accelerator
from attnc_host.caches import DECODE, PREFILL
from decoding.decoders import write_decoder
from decoding.test_decoding import SLOPES, planned

assert golden_backend  # registers "golden"
LENGTH, BLOCK = 15, 4
SCHEDULE = "schema: 1\ndesign: {lanes: 4, beat: %d, rows: 4, engines: {attention: {queries: %d, keys: %d}, linear: {pe: 16}}}\n"
MODELS: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
    "of bytes, through one port": ("int8", (2, 2, 2), {"windows": (3,), "slopes": SLOPES}),
    "of 4 bits, through two ports": ("int4", (2, 8, 4), {"windows": (3,)}),
    "of a word each, through two ports": ("k4v8", (1, 4, 2), {}),
}
"""Format of the caches; words per beat, queries and keys at a time; the model: groups of heads share keys, some layers have a ring."""


@pytest.mark.parametrize("name", [*list(MODELS)[:2], pytest.param(list(MODELS)[2], marks=pytest.mark.slow)])
def test_cpp_equals_golden_at_every_position(name: str, tmp_path: Path) -> None:
    """Odd numbers of keys and even ones, fewer than come at a time, in both sessions; the build itself was simulated in time."""
    cache, numbers, model = MODELS[name]
    (tmp_path / "schedule.yaml").write_text(SCHEDULE % numbers)
    options = {"max_length": LENGTH, "block": BLOCK, "cache": cache, "sessions": 2, "schedule": tmp_path / "schedule.yaml"}
    build = compile_model(write_decoder(tmp_path / "decoder.onnx", **model), CompileOptions(**options, output=tmp_path / "build"))
    made = {}
    for backend in ("golden", "csim"):
        with Accelerator.open(build, backend) as accelerator:
            first, second = accelerator.session(0), accelerator.session(1)
            made[backend] = [second.extend([7]), first.extend([1, 2, 3, 4, 5])]
            made[backend] += [session.extend([token]) for token in range(6, 16) for session in (first, second)][:20]
    np.testing.assert_array_equal(made["csim"], made["golden"])
    simulation = json.loads((build / "report.json").read_text())["simulation"]
    assert all(simulation[style]["bit_exact"] and not simulation[style]["deadlock"] for style in ("stp", "flp"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return planned(write_decoder(tmp_path_factory.mktemp("keys") / "decoder.onnx"), block=12, length=256)


DESIGN = Design.of(4, 16, 16, 4, beat=2, weight_ports=4)


def built(decoder: Decoder, design: Design) -> Program:
    return build_program(decoder.model.graph, design, None)


def test_a_token_takes_as_much_less(decoder: Decoder) -> None:
    """Where keys are many: nearly half, then a quarter, of what attention takes; and its loaders move as much less."""
    cycles: list[int] = []
    loads: list[list[int]] = []
    for keys in (1, 2, 4):
        program = built(decoder, DESIGN.having(keys=keys))
        (engine,) = (engine for engine in program.engines if engine.op == "attention")
        token = next(one for one in program.instructions if one.engine is engine and one.entry == DECODE)
        cycles.append(token.span)
        loads.append([token.moved(stream) for stream in engine.streams if stream.name.startswith(("k", "v"))])
    assert 0.5 < cycles[1] / cycles[0] < 0.65 and 0.25 < cycles[2] / cycles[0] < 0.5
    assert loads == [[4 * 256] * 2, [2 * 256] * 2, [256] * 2]  # two heads of two tiles


def test_interfaces_that_rest_bring_keys(decoder: Decoder) -> None:
    """Weights come through interfaces that no attention needs meanwhile, while engines take turns; one key at a time needs none."""
    assert not [pointer for pointer in built(decoder, DESIGN).pointers if pointer.startswith("keys")]
    bundles = built(decoder, DESIGN.having(keys=4)).bundles
    assert {bundles[f"keys_{number}"] for number in range(4)} == {f"wideweights_{number}" for number in range(4)}
    for design in (DESIGN.having(keys=4, parallel=2, copies=2), DESIGN.having(keys=4, weight_ports=1)):
        own = built(decoder, design).bundles
        assert sum(pointer == bundle for pointer, bundle in own.items() if pointer.startswith("keys")) >= 2
    one, four = (next(engine for engine in built(decoder, DESIGN.having(keys=keys)).engines if engine.op == "attention") for keys in (1, 4))
    more = engine_resources(four, 4).lut - engine_resources(one, 4).lut
    assert 2 * LOADER.lut < more < 2 * (LOADER.lut + PORT.lut)


def test_blocks_end_where_steps_do(decoder: Decoder) -> None:
    """What follows the last key of a block is what the next one stores."""
    for rows, keys, parts in ((16, 4, [12]), (4, 4, [4, 4, 4]), (6, 4, [4, 4, 4]), (3, 2, [2] * 6)):
        for parallel in (1, 2):
            program = built(decoder, DESIGN.having(rows=rows, keys=4, parallel=parallel))
            (kernel,) = {engine.kernel for engine in program.engines if engine.op == "attention"}
            runs = [one for one in program.instructions if one.engine.op == "attention" and one.entry == PREFILL]
            assert kernel.arg("S") == keys, rows
            assert [call.scalars["rows"] for one in runs for _, call in one.own][: len(parts)] == parts, rows
    assert built(decoder, DESIGN.having(queries=2, keys=2)).engines != built(decoder, DESIGN.having(queries=2)).engines


def test_steps_as_long_as_blocks_are_needed(tmp_path: Path) -> None:
    (tmp_path / "schedule.yaml").write_text((SCHEDULE % (2, 4, 4)).replace("rows: 4", "rows: 3"))
    with pytest.raises(ConfigError, match=r"'design\.engines\.attention\.keys': needed at most 3: its queries, its rows"):
        read_schedule(tmp_path / "schedule.yaml")


def test_steps_are_those_that_hold_the_keys() -> None:
    for unit, keys, limit in ((4, 1, 0), (4, 6, 0), (2, 8, 0), (4, 4, 8), (2, 3, 9)):
        register, more = steps_to(keys, unit, limit)
        for position in range(20):
            held = min(position, limit) if limit else position
            assert register.at(position) + more == -(-(held + keys) // unit)


def test_a_search_tries_keys_of_caches_alone() -> None:
    start, kinds = replace(DESIGN, attention=AttentionNumbers(queries=1)), {AttentionNumbers, LinearNumbers}
    assert {design.attention.keys for design in neighbours(start, kinds, 64)} == {1}
    found = {(one.attention.keys, one.attention.queries) for one in neighbours(start, kinds, 64, cached=True)}
    assert found == {(1, 1), (1, 2), (2, 2)}
    more = replace(DESIGN, attention=AttentionNumbers(queries=4, keys=4))
    assert {(one.attention.keys, one.attention.queries) for one in neighbours(more, kinds, 64, cached=True)} == {(4, 4), (4, 8), (2, 4)}


@pytest.mark.parametrize(("keys", "error"), [(3, "a power of two, found 3"), (8, "at most 4: its queries, .*, found 8")])
def test_keys_that_cannot_be(keys: int, error: str, tmp_path: Path) -> None:
    (tmp_path / "schedule.yaml").write_text(SCHEDULE % (2, 16, keys))
    with pytest.raises(ConfigError, match=rf"'design.engines.attention.keys': needed {error}"):
        read_schedule(tmp_path / "schedule.yaml")
