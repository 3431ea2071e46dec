#pragma once
// reciprocal: 1/v of a positive integer as mantissa * 2**-(17 + exponent): mirrors attnc/ops/reciprocal.py.
//
// Types    VT an integer type, v >= 1 and below 2**62; mantissa in [2**16, 2**17).
// Method   v = m * 2**exponent with m in [1, 2), truncated to 24 fraction bits; a start value from a ROM of 128 segments of 1/128
//          (12 fraction bits), then one Newton step y(2 - m*y), rounded half up to 17 bits.
// Error    relative, below 2.1e-5; of the factor of a softmax 3.6e-5.
// Speed    pipelined, one result per cycle; three DSPs instead of a divider.

#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

namespace attnc {

struct Reciprocal {
  Int<18> mantissa;
  shift_t exponent;
};

template <class VT, class Rom> Reciprocal reciprocal(VT v) {
#pragma HLS INLINE
  static_assert(Rom::size == 128, "reciprocal: the ROM has 128 segments");
  typedef UInt<max_of(width<VT>::value, 26)> wide_t;
  const int exponent = bit_length<VT>(v) - 1;
  const int left = 24 - exponent;
  const wide_t wide = wide_t(v);
  const Int<27> m = left >= 0 ? Int<27>(wide << (left >= 0 ? left : 0)) : Int<27>(wide >> (left >= 0 ? 0 : -left));
  const Int<14> start = Int<14>(Rom::at(int(m >> 17) - 128));
  const Int<40> scaled = Int<40>(m) * Int<40>(start);
  const Int<27> correction = Int<27>(((Int<40>(2) << 36) - scaled) >> 12);
  const Int<40> result = shift_round_half_up<Int<40>>(Int<40>(start) * Int<40>(correction), shift_t(19));
  Reciprocal r;
  r.mantissa = Int<18>(clamp<Int<40>>(result, Int<40>(1 << 16), Int<40>((1 << 17) - 1)));
  r.exponent = shift_t(exponent);
  return r;
}

// As softmax_scale, with this reciprocal instead of a division.
template <class SumT, class Rom> SoftmaxScale softmax_scale_newton(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  const bool empty = total == 0;
  const Reciprocal r = reciprocal<SumT, Rom>(empty ? SumT(1) : total);
  const Int<37> product = shift_round_half_up<Int<37>>(Int<37>(multiplier) * Int<37>(r.mantissa), shift_t(17));
  SoftmaxScale scale;
  scale.multiplier = empty ? multiplier_t(0) : multiplier_t(product);
  scale.shift = shift_t(int(r.exponent) + int(shift));
  return scale;
}

// The size of the ROM chooses: 128 entries for this reciprocal, 1 for a division.
template <class Rom, int Size = Rom::size> struct SoftmaxDivision {
  static_assert(Size == 128, "softmax: the ROM of the reciprocal needs 128 entries, or 1 for a division");
  template <class SumT> static SoftmaxScale scale(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
    return softmax_scale_newton<SumT, Rom>(total, multiplier, shift);
  }
};

template <class Rom> struct SoftmaxDivision<Rom, 1> {
  template <class SumT> static SoftmaxScale scale(SumT total, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
    return softmax_scale<SumT>(total, multiplier, shift);
  }
};

}  // namespace attnc
