#pragma once
// dsp_pair: two products that share an operand from one multiplication, as a DSP48E2 (27 x 18 bits) does two int8 products at a time.
//
// Equation (a * 2^18 + b) * w = a*w * 2^18 + b*w. b*w lies in [-2^17, 2^17), so it is the low 18 bits read as signed; where it is
//          negative it has borrowed 1 from the upper part, which bit 17 gives back.
// Types    a, b, w signed, at most 8 bits: a * 2^18 + b fits 27 bits signed, w the 18-bit port.
// Exact    for all 2^24 operand triples (tests/ops/test_low_bit_linear.py runs through them).
// Source   the packing that AMD describes in WP486.

#include "attnc/types.hpp"

namespace attnc {

struct ProductPair {
  Int<17> a;
  Int<17> b;
};

// a * w and b * w.
template <class AT, class WT> ProductPair multiply_pair(AT a, AT b, WT w) {
#pragma HLS INLINE
  static_assert(width<AT>::value <= 8 && width<WT>::value <= 8, "multiply_pair: operands of at most 8 bits");
  const Int<27> packed = Int<27>(Int<27>(Int<27>(a) * (1 << 18)) + Int<27>(b));
  const Int<45> product = Int<45>(packed) * Int<45>(w);
  const Int<18> upper = Int<18>(product >> 18);
  const Int<32> low = Int<32>(product & Int<45>((1 << 18) - 1));
  const bool borrowed = low >= (1 << 17);
  ProductPair pair;
  pair.a = Int<17>(upper + (borrowed ? 1 : 0));
  pair.b = Int<17>(low - (borrowed ? (1 << 18) : 0));
  return pair;
}

// a_sum += x . a and b_sum += x . b. Native simulation multiplies plainly, which vectorises; the results are equal.
template <class AccT, class XT, class WT, int L>
void dot_pair(const Vec<XT, L>& x, const Vec<WT, L>& a, const Vec<WT, L>& b, AccT& a_sum, AccT& b_sum) {
#pragma HLS INLINE
#ifdef ATTNC_NATIVE_TYPES
  AccT a_dot = 0, b_dot = 0;
  for (int l = 0; l < L; ++l) a_dot += AccT(x.v[l]) * AccT(a.v[l]);
  for (int l = 0; l < L; ++l) b_dot += AccT(x.v[l]) * AccT(b.v[l]);
  a_sum += a_dot;
  b_sum += b_dot;
#else
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    const ProductPair pair = multiply_pair<WT, XT>(a.v[l], b.v[l], x.v[l]);
    a_sum += AccT(pair.a);
    b_sum += AccT(pair.b);
  }
#endif
}

}  // namespace attnc
