#pragma once
// The base-2 exponential and the reciprocal that softmax and attention share; mirrors attnc/ops/exponential.py name for name.
//
// Scores   integers t in the log2 domain with FRACTION_BITS fractional bits, |t| <= SCORE_LIMIT.
// Rom      chooses the implementation of the exponential by its size; all entries have PROBABILITY_BITS fractional bits:
//          5, 9, 17, 33   2^(-i/4) ... 2^(-i/32), straight lines between them
//          1024           2^(-f) for every f
//          2              a, b of 1 - f*(b - a*f)
//          1              an offset (of FRACTION_BITS): 2^-floor(d + offset), powers of two alone
// Error    exp2_negative, absolute: 3.5e-3, 9.2e-4, 2.5e-4, 8.5e-5; 2.4e-5; 1.7e-3; 0.25. softmax_scale 3.1e-5 relative.
// Rounding half up, once per function.

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

namespace attnc {

static constexpr int FRACTION_BITS = 10;
static constexpr int PROBABILITY_BITS = 15;
static constexpr int SCORE_BITS = 24;
static constexpr int SCORE_LIMIT = (1 << (SCORE_BITS - 1)) - 1;
typedef UInt<PROBABILITY_BITS + 1> probability_t;

// 2^-(whole + fraction / 2^FRACTION_BITS), whole in [0, 15]: chords between the entries of the ROM.
template <class Rom, int Size = Rom::size> struct Exp2Policy {
  static constexpr int SEGMENT_BITS = clog2(Size - 1);
  static constexpr int REST_BITS = FRACTION_BITS - SEGMENT_BITS;
  static_assert(Size == (1 << SEGMENT_BITS) + 1 && Size >= 5 && Size <= 33,
                "exp2_negative: the ROM needs 5, 9, 17 or 33 entries (chords), 1024 (table), 2 (polynomial) or 1 (powers of two)");
  static probability_t at(int whole, int fraction) {
#pragma HLS INLINE
    typedef UInt<PROBABILITY_BITS + REST_BITS + 2> chord_t;
    const int segment = fraction >> REST_BITS;
    const UInt<REST_BITS> rest = UInt<REST_BITS>(fraction & ((1 << REST_BITS) - 1));
    const chord_t high = Rom::at(segment);
    const chord_t drop = high - chord_t(Rom::at(segment + 1));
    const chord_t chord = (high << REST_BITS) - chord_t(drop * rest);
    return probability_t(shift_round_half_up<chord_t>(chord, shift_t(REST_BITS + whole)));
  }
};

// A table of every fraction.
template <class Rom> struct Exp2Policy<Rom, (1 << FRACTION_BITS)> {
  static probability_t at(int whole, int fraction) {
#pragma HLS INLINE
    typedef UInt<PROBABILITY_BITS + 2> value_t;
    return probability_t(shift_round_half_up<value_t>(value_t(Rom::at(fraction)), shift_t(whole)));
  }
};

// 1 - f*(b - a*f).
template <class Rom> struct Exp2Policy<Rom, 2> {
  static probability_t at(int whole, int fraction) {
#pragma HLS INLINE
    typedef UInt<PROBABILITY_BITS + 2 * FRACTION_BITS + 2> wide_t;
    const wide_t inner = (wide_t(Rom::at(1)) << FRACTION_BITS) - wide_t(wide_t(Rom::at(0)) * wide_t(fraction));
    const wide_t drop = wide_t(inner * wide_t(fraction));
    const wide_t value = (wide_t(1) << (PROBABILITY_BITS + 2 * FRACTION_BITS)) - drop;
    return probability_t(shift_round_half_up<wide_t>(value, shift_t(2 * FRACTION_BITS + whole)));
  }
};

// Powers of two alone.
template <class Rom> struct Exp2Policy<Rom, 1> {
  static probability_t at(int whole, int fraction) {
#pragma HLS INLINE
    return probability_t((1 << PROBABILITY_BITS) >> (whole + ((fraction + int(Rom::at(0))) >> FRACTION_BITS)));
  }
};

// 2^(-d / 2^FRACTION_BITS) for d >= 0; 0 where the whole part of the exponent is 16 or more.
template <class Rom, class DiffT> probability_t exp2_negative(DiffT d) {
#pragma HLS INLINE
  const bool vanishes = int(d >> FRACTION_BITS) > PROBABILITY_BITS;
  const int whole = int(d >> FRACTION_BITS) & PROBABILITY_BITS;
  const int fraction = int(d) & ((1 << FRACTION_BITS) - 1);
  return vanishes ? probability_t(0) : Exp2Policy<Rom>::at(whole, fraction);
}

// The factor of one row: acc * multiplier / 2^shift.
struct SoftmaxScale {
  multiplier_t multiplier;
  shift_t shift;
};

// The division behind it: numerator / mantissa, the multiplier; 0 where the mantissa, else of PROBABILITY_BITS + 1 bits or 2^16, is 0.
struct SoftmaxQuotient {
  UInt<MULTIPLIER_BITS + PROBABILITY_BITS + 1> numerator;
  UInt<PROBABILITY_BITS + 2> mantissa;
  shift_t shift;
};

template <class SumT> SoftmaxQuotient softmax_quotient(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  typedef UInt<width<SumT>::value + 1> wide_t;
  typedef UInt<MULTIPLIER_BITS + PROBABILITY_BITS + 1> numerator_t;
  const int length = bit_length(total);
  const int exponent = length > PROBABILITY_BITS + 1 ? length - (PROBABILITY_BITS + 1) : 0;
  SoftmaxQuotient division;
  division.mantissa = UInt<PROBABILITY_BITS + 2>(shift_round_half_up<wide_t>(total, shift_t(exponent)));
  division.numerator = numerator_t((numerator_t(multiplier) << PROBABILITY_BITS) + numerator_t(division.mantissa >> 1));
  division.shift = shift_t(PROBABILITY_BITS + exponent + int(shift));
  return division;
}

// Divides by `total`, a sum of probabilities (0, or 2^15 to 2^31), and rescales by multiplier / 2^shift. One division.
template <class SumT> SoftmaxScale softmax_scale(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  const SoftmaxQuotient division = softmax_quotient<SumT>(total, multiplier, shift);
  SoftmaxScale scale;
  scale.multiplier = division.mantissa == 0 ? multiplier_t(0) : multiplier_t(division.numerator / division.mantissa);
  scale.shift = division.shift;
  return scale;
}

// The same division a bit at a time. The quotient is below 2^QUOTIENT_BITS, since the mantissa is at least 2^PROBABILITY_BITS: what is
// left of the numerator without its lowest QUOTIENT_BITS is the first remainder.
static constexpr int QUOTIENT_BITS = MULTIPLIER_BITS + 1;
struct SerialDivision {
  UInt<PROBABILITY_BITS + 2> remainder;
  UInt<QUOTIENT_BITS> rest;  // bits of the numerator that have not come yet, above bits of the quotient
};

inline SerialDivision serial_start(const SoftmaxQuotient& division) {
#pragma HLS INLINE
  SerialDivision state;
  state.remainder = UInt<PROBABILITY_BITS + 2>(division.numerator >> QUOTIENT_BITS);
  state.rest = UInt<QUOTIENT_BITS>(division.numerator & ((UInt<QUOTIENT_BITS + 1>(1) << QUOTIENT_BITS) - 1));
  return state;
}

inline SerialDivision serial_step(const SerialDivision& state, UInt<PROBABILITY_BITS + 2> mantissa) {
#pragma HLS INLINE
  typedef UInt<PROBABILITY_BITS + 3> wide_t;
  const UInt<QUOTIENT_BITS> ones = UInt<QUOTIENT_BITS>((UInt<QUOTIENT_BITS + 1>(1) << QUOTIENT_BITS) - 1);
  const wide_t next = wide_t((wide_t(state.remainder) << 1) | wide_t((state.rest >> (QUOTIENT_BITS - 1)) & UInt<QUOTIENT_BITS>(1)));
  const bool fits = next >= wide_t(mantissa);
  SerialDivision result;
  result.remainder = UInt<PROBABILITY_BITS + 2>(fits ? wide_t(next - wide_t(mantissa)) : next);
  result.rest = UInt<QUOTIENT_BITS>(((state.rest << 1) & ones) | UInt<QUOTIENT_BITS>(fits ? 1 : 0));
  return result;
}

}  // namespace attnc
