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

// The low bits of x / 2**shift (floor) that OutT holds. A shifter of three stages, the coarse one first: each passes on no bit that the
// next ones do not need, so it is about as wide as OutT, not as T. `wide` makes shifts by 48 defined for narrow built-in types as well.
template <class OutT, class T> OutT narrow_shift(T x, shift_t shift) {
#pragma HLS INLINE
  static constexpr int BITS = width<OutT>::value;
  typedef Int<max_of(width<T>::value, 49)> wide;
  typedef Int<BITS + 15> coarse;
  typedef Int<BITS + 3> fine;
  const coarse by_16 = coarse(wide(x) >> (int(shift) & 0x30));
  const fine by_4 = fine(by_16 >> (int(shift) & 0xc));
  return OutT(by_4 >> (int(shift) & 0x3));
}

// The largest x that a shift brings into OutT, -x - 1 being the smallest: found once for all values that share the shift.
template <class OutT, class T> T kept_by(shift_t shift) {
#pragma HLS INLINE
  static constexpr int LAST = width<T>::value - 2;
  static constexpr int TOP = width<OutT>::value - 2;
  const T top = T(T(1) << LAST);
  const int bits = TOP + int(shift);
  return bits < LAST ? T(T(top >> (LAST - 1 - bits)) - 1) : T(T(top - 1) + top);
}

// clamp(x / 2**shift), rounded half up; `kept` as kept_by<OutT, T>(shift) gives it, |x| < 2**62. What the shift would not bring into OutT
// is known beforehand, so that only the bits of OutT are shifted, rounded and compared with its limits.
template <class OutT, class T> OutT shift_clamp(T x, shift_t shift, T kept, OutT low, OutT high) {
#pragma HLS INLINE
  typedef Int<width<OutT>::value + 1> rounded_t;
  typedef Int<width<T>::value + 1> doubled_t;
  const bool negative = x < 0;
  const bool beyond = T(negative ? T(~x) : x) > kept;
  const rounded_t halves = narrow_shift<rounded_t>(doubled_t(doubled_t(x) * 2), shift);
  const rounded_t rounded = rounded_t((halves >> 1) + (halves & 1));
  if (beyond ? negative : rounded < rounded_t(low)) return low;
  return beyond || rounded_t(high) < rounded ? high : OutT(rounded);
}

// value * factor, the factor of at most 18 bits. A DSP48E2 multiplies 27 by 18 bits and adds (UG579): up to 6 bits of the value beyond 27,
// its lowest, are multiplied in logic, which is cheaper than the second DSP that a plain product would take. The DSP adds what that gives
// above those bits; the bits themselves join the product as they are.
template <class ProductT, class ValueT, class FactorT> ProductT wide_product(ValueT value, FactorT factor) {
#pragma HLS INLINE
#ifdef ATTNC_NATIVE_TYPES
  return ProductT(ProductT(value) * ProductT(factor));
#else
  static constexpr int PORT = 27, IN_LOGIC = 6;
  static constexpr int BEYOND = width<ValueT>::value - PORT;
  static constexpr int LOW = max_of(BEYOND, 1);
  static_assert(width<FactorT>::value <= 18, "wide_product: the factor has at most 18 bits");
  if (BEYOND <= 0 || BEYOND > IN_LOGIC) return ProductT(ProductT(value) * ProductT(factor));
  const UInt<LOW> low = UInt<LOW>(value);
  const Int<LOW + 18> beyond = low * factor;
#pragma HLS BIND_OP variable = beyond op = mul impl = fabric
  const Int<PORT + 18> upper = Int<PORT>(value >> LOW) * factor + (beyond >> LOW);
  return ProductT((ProductT(upper) << LOW) | ProductT(UInt<LOW>(beyond)));
#endif
}

// clamp(acc * multiplier / 2**shift), rounded half up.
template <class AccT>
Int<32> requantize(AccT acc, multiplier_t multiplier, shift_t shift, Int<32> low, Int<32> high) {
#pragma HLS INLINE
  typedef Int<width<AccT>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t product = wide_product<product_t, AccT, multiplier_t>(acc, multiplier);
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
