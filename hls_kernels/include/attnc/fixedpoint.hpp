#pragma once
// Rounding, saturation and rescaling: mirrors attnc/fixedpoint.py name for name.

#include "attnc/types.hpp"

namespace attnc {

static constexpr int MULTIPLIER_BITS = 17;
typedef Int<MULTIPLIER_BITS + 1> multiplier_t;
typedef UInt<6> shift_t;

template <class T> T clamp(T x, T low, T high) {
#pragma HLS INLINE
  return x < low ? low : (high < x ? high : x);
}

// x / 2**shift, rounded to nearest, ties towards plus infinity: floor, plus the highest bit that falls off. Right for shifts beyond the
// width of T too, where every bit is the sign.
template <class T> T shift_round_half_up(T x, shift_t shift) {
#pragma HLS INLINE
  const int last = width<T>::value - 1;
  const int down = int(shift);
  const T floored = T(x >> (down < last ? down : last));
  const T dropped = T(x >> (down == 0 ? 0 : down - 1 < last ? down - 1 : last));
  return down == 0 ? x : T(floored + T(dropped & T(1)));
}

// clamp(acc * multiplier / 2**shift), rounded half up.
template <class AccT>
Int<32> requantize(AccT acc, multiplier_t multiplier, shift_t shift, Int<32> low, Int<32> high) {
#pragma HLS INLINE
  typedef Int<width<AccT>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t product = product_t(acc) * product_t(multiplier);
  const product_t rounded = shift_round_half_up<product_t>(product, shift);
  return Int<32>(clamp<product_t>(rounded, product_t(low), product_t(high)));
}

// Bits of a non-negative integer; 0 has none. A priority encoder.
template <class T> int bit_length(T x) {
#pragma HLS INLINE
  int length = 0;
BIT_LENGTH:
  for (int bit = 0; bit < width<T>::value; ++bit) {
#pragma HLS UNROLL
    if ((x >> bit) & 1) length = bit + 1;
  }
  return length;
}

}  // namespace attnc
