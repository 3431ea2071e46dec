#pragma once
// The base-2 exponential and the reciprocal that softmax and attention share; mirrors attnc/ops/exponential.py name for name.
//
// Scores   integers t in the log2 domain with FRACTION_BITS fractional bits, |t| <= SCORE_LIMIT.
// Rom      33 entries, 2^(-i/32) with PROBABILITY_BITS fractional bits.
// Error    exp2_negative 8.5e-5 absolute, softmax_scale 3.1e-5 relative.
// Rounding half up, once per function.

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

namespace attnc {

static constexpr int FRACTION_BITS = 10;
static constexpr int SEGMENT_BITS = 5;
static constexpr int PROBABILITY_BITS = 15;
static constexpr int SCORE_BITS = 24;
static constexpr int SCORE_LIMIT = (1 << (SCORE_BITS - 1)) - 1;
typedef UInt<PROBABILITY_BITS + 1> probability_t;

// 2^(-d / 2^FRACTION_BITS) for d >= 0; 0 where the whole part of the exponent is 16 or more.
template <class Rom, class DiffT> probability_t exp2_negative(DiffT d) {
#pragma HLS INLINE
  static_assert(Rom::size == (1 << SEGMENT_BITS) + 1, "exp2_negative: the ROM needs an entry per segment and one more");
  static constexpr int REST_BITS = FRACTION_BITS - SEGMENT_BITS;
  typedef UInt<PROBABILITY_BITS + REST_BITS + 2> chord_t;
  const bool vanishes = int(d >> FRACTION_BITS) > PROBABILITY_BITS;
  const int whole = int(d >> FRACTION_BITS) & PROBABILITY_BITS;
  const int segment = int(d >> REST_BITS) & ((1 << SEGMENT_BITS) - 1);
  const UInt<REST_BITS> rest = UInt<REST_BITS>(int(d) & ((1 << REST_BITS) - 1));
  const chord_t high = Rom::at(segment);
  const chord_t drop = high - chord_t(Rom::at(segment + 1));
  const chord_t chord = (high << REST_BITS) - chord_t(drop * rest);
  return vanishes ? probability_t(0) : probability_t(shift_round_half_up<chord_t>(chord, shift_t(REST_BITS + whole)));
}

// The factor of one row: acc * multiplier / 2^shift.
struct SoftmaxScale {
  multiplier_t multiplier;
  shift_t shift;
};

// Divides by `total`, a sum of probabilities (0, or 2^15 to 2^31), and rescales by multiplier / 2^shift. One division.
template <class SumT> SoftmaxScale softmax_scale(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  typedef UInt<width<SumT>::value + 1> wide_t;
  typedef UInt<MULTIPLIER_BITS + PROBABILITY_BITS + 1> quotient_t;
  const int length = bit_length(total);
  const int exponent = length > PROBABILITY_BITS + 1 ? length - (PROBABILITY_BITS + 1) : 0;
  const UInt<PROBABILITY_BITS + 2> mantissa = UInt<PROBABILITY_BITS + 2>(shift_round_half_up<wide_t>(total, shift_t(exponent)));
  const quotient_t numerator = (quotient_t(multiplier) << PROBABILITY_BITS) + quotient_t(mantissa >> 1);
  SoftmaxScale scale;
  scale.multiplier = mantissa == 0 ? multiplier_t(0) : multiplier_t(numerator / mantissa);
  scale.shift = shift_t(PROBABILITY_BITS + exponent + int(shift));
  return scale;
}

}  // namespace attnc
