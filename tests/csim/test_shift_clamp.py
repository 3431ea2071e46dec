"""shift_clamp and narrow_shift in C++ against 128-bit arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixedpoint_program import outcome

PROGRAM = """
#include "attnc/fixedpoint.hpp"
#include <random>
typedef __int128 big;

template <class T, class OutT> bool right(long long x, int shift, int low, int high) {
  const big half = shift == 0 ? 0 : big(1) << (shift - 1);
  const big rounded = (big(x) + half) >> shift;
  const big expected = rounded < low ? low : rounded > high ? high : rounded;
  const T kept = attnc::kept_by<OutT, T>(attnc::shift_t(shift));
  return attnc::shift_clamp<OutT, T>(T(x), attnc::shift_t(shift), kept, OutT(low), OutT(high)) == OutT(int(expected));
}

// Every x of 12 bits, every shift.
template <class OutT> bool exhaustive(int low, int high) {
  for (int shift = 0; shift < 63; ++shift)
    for (int x = -2048; x < 2048; ++x)
      if (!right<attnc::Int<12>, OutT>(x, shift, low, high)) return false;
  return true;
}

// Numbers of all lengths, and next to the limits and the ties beside them.
template <int W, class OutT> bool seeded(int low, int high) {
  std::mt19937_64 random(W);
  for (int shift = 0; shift < 63; ++shift)
    for (int i = 0; i < 400; ++i) {
      big x = big(random() >> (65 - W + random() % (W - 1)));
      x = random() & 1 ? x : -x - 1;
      if (i % 2) x = (big(i & 2 ? low : high) << shift) + ((big(1) << shift) >> 1) * (i & 4 ? 1 : -1) + int(random() % 5) - 2;
      if (x >= big(1) << (W - 1) || x < -(big(1) << (W - 1))) continue;
      if (!right<attnc::Int<W>, OutT>((long long)(x), shift, low, high)) return false;
    }
  return true;
}

int main() {
  typedef attnc::Int<8> byte;
  typedef attnc::Int<16> word;
  const int words[][2] = {{-32768, 32767}, {-32767, 32767}, {-128, 127}, {0, 255}, {-255, 0}, {-3, 100}};
  for (const auto& range : words) {
    if (!exhaustive<word>(range[0], range[1])) return 1;
    if (!seeded<20, word>(range[0], range[1]) || !seeded<36, word>(range[0], range[1])) return 2;
    if (!seeded<51, word>(range[0], range[1]) || !seeded<62, word>(range[0], range[1])) return 2;
  }
  const int bytes[][2] = {{-127, 127}, {-128, 127}, {-5, 0}};
  for (const auto& range : bytes)
    if (!exhaustive<byte>(range[0], range[1]) || !seeded<36, byte>(range[0], range[1])) return 3;
  // The bits that OutT holds, whatever lies above them.
  for (int shift = 0; shift < 45; ++shift)
    for (int sign = -1; sign < 2; sign += 2) {
      const big x = sign * big(0x123456789abll);
      const attnc::Int<22> expected = attnc::Int<22>((long long)(x >> shift));
      if (((attnc::narrow_shift<attnc::Int<22>, attnc::Int<45>>((long long)(x), shift) ^ expected) & 0x3fffff) != 0) return 4;
    }
  return 0;
}
"""
BUGS = [
    ("(halves & 1)", "0"),
    ("width<OutT>::value - 2;", "width<OutT>::value - 1;"),
    ("T(~x) : x) > kept", "T(~x) : x) > T(kept >> 1)"),
    ("BITS + 15> coarse", "BITS + 14> coarse"),
    ("BITS + 3> fine", "BITS + 2> fine"),
    ("rounded_t(high) < rounded ?", "false ?"),
]
"""The widths of the stages tell only in types of exact widths."""


@pytest.mark.parametrize("types", ["native", "ap"])
def test_shift_clamp(types: str, tmp_path: Path) -> None:
    assert outcome(PROGRAM, tmp_path, types) == 0


@pytest.mark.parametrize(("right", "wrong"), BUGS)
def test_a_bug_is_seen(right: str, wrong: str, tmp_path: Path) -> None:
    assert outcome(PROGRAM, tmp_path, "ap", right, wrong) != 0
