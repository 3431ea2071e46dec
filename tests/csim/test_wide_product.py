"""wide_product in C++ against 128-bit arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnc.ops.requantize import DSP_PORT, IN_LOGIC
from attnc.resources import data_path
from fixedpoint_program import outcome

PROGRAM = """
#include "attnc/fixedpoint.hpp"
#include <random>
typedef __int128 big;

template <int W, int F> bool right(long long value, long long factor) {
  typedef attnc::Int<W + F + 1> product_t;
  const product_t product = attnc::wide_product<product_t, attnc::Int<W>, attnc::Int<F>>(attnc::Int<W>(value), attnc::Int<F>(factor));
  return big((long long)(product)) == big(value) * big(factor);
}

// Numbers of all lengths and the ends of the ranges, with every value of the bits that are multiplied in logic.
template <int W, int F> bool seeded() {
  const long long largest = (1ll << (W - 1)) - 1, factors[] = {(1ll << (F - 1)) - 1, -(1ll << (F - 1)), 0, 1, -1};
  std::mt19937_64 random(W * F);
  for (int i = 0; i < 20000; ++i) {
    long long value = (long long)(random() >> (65 - W + random() % (W - 1)));
    long long factor = (long long)(random() >> (65 - F + random() % (F - 1)));
    value = i % 16 == 0 ? largest - i / 16 % 128 : i % 16 == 1 ? -largest - 1 + i / 16 % 128 : random() & 1 ? value : -value - 1;
    factor = i % 4 == 0 ? factors[i / 16 % 5] : random() & 1 ? factor : -factor - 1;
    if (!right<W, F>(value, factor)) return false;
  }
  return true;
}

int main() {
  if (!seeded<16, 18>() || !seeded<27, 18>() || !seeded<28, 18>() || !seeded<29, 18>() || !seeded<31, 18>()) return 1;
  if (!seeded<32, 18>() || !seeded<33, 18>() || !seeded<34, 18>() || !seeded<44, 18>()) return 2;
  return seeded<33, 16>() && seeded<30, 9>() ? 0 : 3;
}
"""
BUGS = [
    ("Int<PORT>(value >> LOW)", "Int<PORT - 1>(value >> LOW)"),
    ("(beyond >> LOW)", "(low * factor >> LOW >> 1)"),
    ("Int<LOW + 18> beyond", "Int<LOW + 16> beyond"),
    ("Int<PORT + 18> upper", "Int<PORT + 16> upper"),
    ("ProductT(UInt<LOW>(beyond))", "ProductT(UInt<LOW>(low))"),
]
"""Only exact types split the product."""


@pytest.mark.parametrize("types", ["native", "ap"])
def test_wide_product(types: str, tmp_path: Path) -> None:
    assert outcome(PROGRAM, tmp_path, types) == 0


@pytest.mark.parametrize(("right", "wrong"), BUGS)
def test_a_bug_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    assert outcome(PROGRAM, tmp_path, "ap", right, wrong) != 0


def test_the_estimate_knows_its_widths() -> None:
    header = (data_path("hls_kernels") / "include" / "attnc" / "fixedpoint.hpp").read_text()
    assert f"PORT = {DSP_PORT}, IN_LOGIC = {IN_LOGIC};" in header
