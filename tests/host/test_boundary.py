"""The edge between float arrays and the device's memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnc.arrays import Array
from attnc.fixedpoint import quantize_half_even
from attnc.ir import TensorType
from attnc.ops.attention_bias import quantize_bias
from attnc_host import AcceleratorError, boundary, layout, manifest
from attnc_host.manifest import NumberType, Source
from small_build import ROWS, K, random_inputs, write_small_build

S16 = NumberType(16, True, np.float64(0.01), 0)


def number_type(bits: int = 8, scale: float | Array = 1.0, zero_point: int = 0, signed: bool = True) -> NumberType:
    return NumberType(bits, signed, np.asarray(scale, np.float64), zero_point)


def prepare(description: manifest.Manifest, inputs: Mapping[str, Any]) -> boundary.Prepared:
    return boundary.prepare(description, boundary.check_inputs(description, inputs))


def test_quantize_by_hand() -> None:
    real = np.array([0.5, 1.5, -0.5, -1.5, 2.49, 1e9, -1e9, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(boundary.quantize(real, number_type()), [0, 2, 0, -2, 2, 127, -128, 127, -128, 0])
    np.testing.assert_array_equal(boundary.quantize(real, number_type(zero_point=100)), [100, 102, 100, 98, 102, 127, -128, 127, -128, 100])
    assert boundary.quantize(real, number_type(bits=12)).dtype == np.int16


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=64), min_size=1, max_size=8), st.sampled_from([0.03, 1.0, 1e-3, 7.0]), st.integers(-128, 127))
def test_quantize_equals_the_compilers(values: list[float], scale: float, zero_point: int) -> None:
    real = np.array(values)
    expected = quantize_half_even(real, scale, -128 - zero_point, 127 - zero_point) + zero_point
    np.testing.assert_array_equal(boundary.quantize(real, number_type(scale=scale, zero_point=zero_point)), expected)


def test_scales_per_channel_and_back() -> None:
    kind = number_type(scale=np.array([0.1, 0.2, 0.4]))
    q = np.arange(-6, 6).reshape(2, 2, 3).astype(np.int8)
    np.testing.assert_array_equal(boundary.quantize(boundary.dequantize(q, kind), kind), q)


def test_excluded_keys_keep_the_smallest_integer_to_themselves() -> None:
    lowest = np.finfo(np.float32).min
    real = np.array([[-np.inf, -1e4, -9999.0, -400.0, 0.0, 300.0, np.nan, lowest], [lowest] * 8, [-np.inf] * 8])
    found = boundary.quantize_excluded(real, S16)
    np.testing.assert_array_equal(found, [[-32768, -32768, -32766, -32766, 0, 30000, 0, -32768], [-32767] * 8, [-32768] * 8])


def test_excluded_rule_equals_the_operators() -> None:
    rng = np.random.default_rng(0)
    real = rng.choice([1.0, -1.0], (400, 1)) * 10.0 ** rng.uniform(0, 39, (400, 1)) + rng.normal(0, 5000, (400, 9))
    real[rng.random(real.shape) < 0.2] = rng.choice([-np.inf, np.nan, -1e4, np.finfo(np.float32).min])
    real[:40] = rng.choice([-np.inf, -1e4, -1e9, -2e9, -1e4 - 3], (40, 9))
    np.testing.assert_array_equal(boundary.quantize_excluded(real, S16), quantize_bias(real, TensorType(16, True, S16.scale)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 7), st.integers(1, 40), st.sampled_from([4, 8, 16]), st.sampled_from([1, 2]))
def test_layout_round_trip(samples: int, rows: int, channels: int, lanes: int, size: int) -> None:
    limit = 1 << (8 * size - 1)
    array = np.random.default_rng(0).integers(-limit, limit, (samples, rows, channels))
    data = layout.pack(array, lanes, size)
    assert data.shape == (samples, layout.words(rows, channels, lanes, size) * lanes)
    np.testing.assert_array_equal(layout.unpack(data, rows, channels, lanes, size), array)


def test_layout_by_hand() -> None:
    """Two tiles of two lanes, 16 bits: low bytes first, then high bytes, row by row, the last tile padded."""
    array = np.array([[[0x0102, 0x0304, 0x0506], [-1, -2, -3]]])
    expected = [2, 4, 1, 3, 0xFF, 0xFE, 0xFF, 0xFF, 6, 0, 5, 0, 0xFD, 0, 0xFF, 0]
    assert layout.pack(array, 2, 2)[0].tolist() == expected


def test_source_nest_and_file(tmp_path: Path) -> None:
    assert Source(6, 1, (2, 3), (10, 2)).index().tolist() == [1, 3, 5, 11, 13, 15]
    assert Source(1, 4).index().tolist() == [4]
    assert Source(3, 5, (3,), (-2,)).index().tolist() == [5, 3, 1]
    np.save(tmp_path / "i.npy", np.array([[3, 1], [2, 0]]))
    assert Source(4, file=tmp_path / "i.npy").index().tolist() == [3, 1, 2, 0]
    with pytest.raises(AcceleratorError, match="needed 5 integers, found int64 of 4"):
        Source(5, file=tmp_path / "i.npy").index()
    (tmp_path / "i.npy").write_bytes(b"nonsense")
    with pytest.raises(AcceleratorError, match="not an index array"):
        Source(4, file=tmp_path / "i.npy").index()


def test_images_round_trip(shared_build: Path) -> None:
    description = manifest.load(shared_build)
    prepared = prepare(description, random_inputs(3))
    image = boundary.to_image(description, prepared.values)
    assert image.shape == (3, description.input_bytes) and image.dtype == np.uint8
    np.testing.assert_array_equal(boundary.read_inputs(description, image)["x"], prepared.values["x"])
    outputs = {"y": np.arange(-30, 30).reshape(3, 4, 5).astype(np.int8)}
    np.testing.assert_array_equal(boundary.from_image(description, boundary.write_outputs(description, outputs))["y"], outputs["y"])
    with pytest.raises(AcceleratorError, match="memory image: needed"):
        boundary.from_image(description, image[:, :3])


@pytest.mark.parametrize("in_file", [False, True])
def test_gather(tmp_path: Path, in_file: bool) -> None:
    """The device reads the transpose, as a nest or as an array in a file."""
    build = write_small_build(tmp_path / "build", transposed=True)
    if in_file:
        path, data = build / "manifest.json", json.loads((build / "manifest.json").read_text())
        (build / "host").mkdir(exist_ok=True)
        np.save(build / "host" / "feed_0.npy", np.arange(ROWS * K).reshape(K, ROWS).T)
        data["feeds"][0]["source"] = {"file": "host/feed_0.npy"}
        path.write_text(json.dumps(data))
    description = manifest.load(build, verify=False)
    x = np.random.default_rng(0).normal(size=(2, K, ROWS))
    found = prepare(description, {"x": x}).values["x"]
    np.testing.assert_array_equal(found, boundary.quantize(x.astype(np.float32).swapaxes(1, 2), description.feeds[0].type))


def test_gather_outside_the_tensor(tmp_path: Path) -> None:
    build = write_small_build(tmp_path / "build")
    data = json.loads((build / "manifest.json").read_text())
    data["feeds"][0]["source"]["offset"] = 1
    (build / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(AcceleratorError, match="reads element 24 of 'x', which has 24"):
        prepare(manifest.load(build, verify=False), random_inputs(1))


WRONG = [
    ({}, "missing 'x'; the model takes 'x'"),
    ({"z": np.zeros((1, 4, 6)), "x": np.zeros((1, 4, 6))}, "unknown 'z'"),
    ({"x": np.zeros((1, 4, 7))}, r"needed shape \[samples, 4, 6\] or \[samples, 1, 4, 6\], found \[1, 4, 7\]"),
    ({"x": np.zeros((4, 6))}, r"found \[4, 6\]"),
    ({"x": np.zeros((0, 4, 6))}, "at least one sample"),
    ({"x": np.zeros((1, 4, 6), np.complex64)}, "needed float32, found complex64"),
    ({"x": np.full((1, 4, 6), "a")}, "needed float32, found <U1"),
    ({"x": np.full((1, 4, 6), None)}, "needed float32, found object"),
    ({"x": [[1, 2], [3]]}, "input 'x'"),
    ([1, 2], "needed a dictionary"),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_inputs(shared_build: Path, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(AcceleratorError, match=message):
        prepare(manifest.load(shared_build), inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_numbers_that_are_none(shared_build: Path, value: float, dtype: type) -> None:
    x = np.zeros((3, 4, 6), dtype)
    x[2, 1, 3] = value
    with pytest.raises(AcceleratorError, match=r"input 'x': contains NaN or infinity, the first at \[2, 1, 3\] of shape \[3, 4, 6\]"):
        prepare(manifest.load(shared_build), {"x": x})
    with pytest.raises(AcceleratorError, match="contains a number that float32 cannot hold"):
        prepare(manifest.load(shared_build), {"x": np.full((1, 4, 6), 1e300)})


def test_numbers_that_the_host_makes_are_checked_too(tmp_path: Path) -> None:
    """Twice the largest float32 is infinite; in a mask, minus infinity is a number like others."""
    description = manifest.load(write_small_build(tmp_path / "build", host=True))
    x = np.zeros((3, 4, 6), np.float32)
    x[1, 2, 3] = -3e38
    with pytest.raises(AcceleratorError, match="'x2', which the host computes for the device, becomes NaN or infinite in sample 1"):
        prepare(description, {"x": x})
    mask = replace(description, feeds=(replace(description.feeds[0], excluded=True),))
    assert prepare(mask, {"x": x}).values["x"][1, 2, 3] == -128
    with pytest.raises(AcceleratorError, match="in sample 1"):
        prepare(mask, {"x": -x})


def test_a_query_without_any_key_needs_a_model_that_says_what_it_gets(tmp_path: Path) -> None:
    description = manifest.load(write_small_build(tmp_path / "build", host=True))
    x = np.zeros((3, 4, 6), np.float32)
    x[2, 1] = -3e38
    feed = replace(description.feeds[0], excluded=True)
    with pytest.raises(AcceleratorError, match=r"'x2', a mask, leaves a query of sample 2 no key: the model itself gives NaN there"):
        prepare(replace(description, feeds=(replace(feed, keyless=False),)), {"x": x})
    assert (prepare(replace(description, feeds=(feed,)), {"x": x}).values["x"][2, 1] == -128).all()
