#pragma once
// rsqrt: 1/sqrt(v) of a positive integer as mantissa * 2**-(17 + exponent): mirrors attnc/ops/rsqrt.py.
//
// Types    VT a signed integer, v >= 1; mantissa in [2**16, 2**17).
// Method   v = m * 4**exponent with m in [1, 4), truncated to 24 fraction bits; a start value from a ROM of 384 segments of 1/128
//          (12 fraction bits), then one Newton step y(3 - m*y*y)/2, rounded half up to 17 bits.
// Error    relative, below 2**-16.
// Speed    pipelined, one result per cycle.

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

namespace attnc {

typedef Int<18> rsqrt_mantissa_t;

struct Rsqrt {
  rsqrt_mantissa_t mantissa;
  shift_t exponent;
};

template <class VT, class Rom> Rsqrt rsqrt(VT v) {
#pragma HLS INLINE
  static_assert(Rom::size == 384, "rsqrt: the ROM has 384 segments");
  // m and the correction lie below 2**26, which fits the wide port of a DSP48 with its sign.
  typedef Int<max_of(width<VT>::value, 27)> wide_t;
  const int exponent = (bit_length<VT>(v) - 1) >> 1;
  const int left = 24 - 2 * exponent;
  const wide_t wide = wide_t(v);
  const Int<27> m = left >= 0 ? Int<27>(wide << (left >= 0 ? left : 0)) : Int<27>(wide >> (left >= 0 ? 0 : -left));
  const Int<14> start = Int<14>(Rom::at(int(m >> 17) - 128));
  const Int<26> square = Int<26>(start) * Int<26>(start);
  const Int<53> scaled = Int<53>(m) * Int<53>(square);
  const Int<27> correction = Int<27>(((Int<53>(3) << 48) - scaled) >> 24);
  const Int<42> result = shift_round_half_up<Int<42>>(Int<42>(start) * Int<42>(correction), shift_t(20));
  Rsqrt r;
  r.mantissa = rsqrt_mantissa_t(clamp<Int<42>>(result, Int<42>(1 << 16), Int<42>((1 << 17) - 1)));
  r.exponent = shift_t(exponent);
  return r;
}

}  // namespace attnc
