#pragma once
// dsp_pair: two products that share an operand from one multiplication, as a DSP48E2 (27 x 18 bits) does two int8 products at a time.
//
// Equation (a * 2^18 + b) * w = a*w * 2^18 + b*w. A sum of such products stays as it is, in the adders of the DSPs, as long as its b part
//          lies in [-2^17, 2^17): of 4 of any bytes, of 8 where a and b are 127 at most in size, of more where they are smaller. Then it is
//          the low 18 bits read as signed; where it is negative it has borrowed 1 from the upper part, which bit 17 gives back.
// Types    a, b, w signed, at most 8 bits: a * 2^18 + b fits 27 bits signed, w the 18-bit port, the sum 36 bits.
// Exact    for all 2^24 operand triples, alone and as often as they may be added, and for sums of random ones
//          (tests/ops/test_low_bit_linear.py).
// Source   the packing that AMD describes in WP486.

#include "attnc/types.hpp"

namespace attnc {

// How many products may be added: a power of two, not more than there are. a and b are `largest` at most in size, w has 8 bits.
constexpr int pair_chain(int products, int largest) {
  return products == 1 || products * largest * 128 < 1 << 17 ? products : pair_chain(products / 2, largest);
}

typedef Int<27> packed_pair_t;
typedef Int<36> pair_sum_t;

struct ProductPair {
  Int<18> a;
  Int<18> b;
};

template <class T> packed_pair_t pack_pair(T a, T b) {
#pragma HLS INLINE
  static_assert(width<T>::value <= 8, "pack_pair: operands of at most 8 bits");
  return packed_pair_t(packed_pair_t(packed_pair_t(a) * (1 << 18)) + packed_pair_t(b));
}

// The sums of a * w and of b * w from a sum of packed products.
inline ProductPair split_pair(pair_sum_t sum) {
#pragma HLS INLINE
  const Int<18> upper = Int<18>(sum >> 18);
  const Int<32> low = Int<32>(sum & pair_sum_t((1 << 18) - 1));
  const bool borrowed = low >= (1 << 17);
  ProductPair pair;
  pair.a = Int<18>(upper + (borrowed ? 1 : 0));
  pair.b = Int<18>(low - (borrowed ? (1 << 18) : 0));
  return pair;
}

// a_sum += x . a and b_sum += x . b, with a and b of LARGEST at most in size. Native simulation multiplies plainly, which vectorises; the
// results are equal.
template <class AccT, class XT, class WT, int L, int LARGEST>
void dot_pair(const Vec<XT, L>& x, const Vec<WT, L>& a, const Vec<WT, L>& b, AccT& a_sum, AccT& b_sum) {
#pragma HLS INLINE
#ifdef ATTNC_NATIVE_TYPES
  AccT a_dot = 0, b_dot = 0;
  for (int l = 0; l < L; ++l) a_dot += AccT(x.v[l]) * AccT(a.v[l]);
  for (int l = 0; l < L; ++l) b_dot += AccT(x.v[l]) * AccT(b.v[l]);
  a_sum += a_dot;
  b_sum += b_dot;
#else
  static_assert(width<XT>::value <= 8 && LARGEST <= 128, "dot_pair: operands of at most 8 bits");
  static const int CHAIN = pair_chain(L, LARGEST);
  for (int first = 0; first < L; first += CHAIN) {
#pragma HLS UNROLL
    pair_sum_t sum = 0;
    for (int i = 0; i < CHAIN; ++i) {
#pragma HLS UNROLL
      sum += pair_sum_t(pair_sum_t(pack_pair<WT>(a.v[first + i], b.v[first + i])) * pair_sum_t(x.v[first + i]));
    }
    const ProductPair pair = split_pair(sum);
    a_sum += AccT(pair.a);
    b_sum += AccT(pair.b);
  }
#endif
}

}  // namespace attnc
