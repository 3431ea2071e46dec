#pragma once
// Soft-capping of attention scores, t = cap * tanh(score / cap); mirrors attnc/ops/softcap.py name for name.
//
// Argument u = score / cap with SOFTCAP_BITS fractional bits, |u| < 2^SOFTCAP_LIMIT_BITS; beyond, tanh is 1 to 2^-20.
// Rom      513 entries: tanh(i / 64) with 16 fractional bits; a single entry stands for "no cap".
// Rounding the chord is exact; requantize (half up) to t, saturated to +-SCORE_LIMIT.
// Error    3.2e-5 * cap from the chord and the ROM, 4e-6 * cap from u.

#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

namespace attnc {

static constexpr int SOFTCAP_BITS = 17;
static constexpr int SOFTCAP_LIMIT_BITS = 3;
static constexpr int SOFTCAP_SEGMENT_BITS = 6;
static constexpr int SOFTCAP_VALUE_BITS = 16;
static constexpr int SOFTCAP_LIMIT = (1 << (SOFTCAP_BITS + SOFTCAP_LIMIT_BITS)) - 1;

template <class Rom> Int<32> softcap(Int<32> u, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  static_assert(Rom::size == (1 << (SOFTCAP_LIMIT_BITS + SOFTCAP_SEGMENT_BITS)) + 1, "softcap: the ROM needs an entry per segment and one more");
  static constexpr int REST_BITS = SOFTCAP_BITS - SOFTCAP_SEGMENT_BITS;
  typedef Int<SOFTCAP_VALUE_BITS + REST_BITS + 2> chord_t;
  const bool negative = u < 0;
  const int magnitude = negative ? -int(u) : int(u);
  const int segment = magnitude >> REST_BITS;
  const int rest = magnitude & ((1 << REST_BITS) - 1);
  const chord_t low = chord_t(Rom::at(segment));
  const chord_t growth = chord_t(chord_t(Rom::at(segment + 1)) - low);
  const chord_t chord = chord_t((low << REST_BITS) + growth * chord_t(rest));
  return requantize<chord_t>(negative ? chord_t(-chord) : chord, multiplier, shift, -SCORE_LIMIT, SCORE_LIMIT);
}

}  // namespace attnc
