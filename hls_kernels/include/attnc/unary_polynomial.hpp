#pragma once
// unary_polynomial: y = requantize(h(|x|)) or requantize(h(|x|) * x), h a quadratic with coefficients per sign of x.
//
// Shapes   x, y [rows, tiles*L], streams in (tile, row) order; the lanes of the last tile beyond `channels` give 0, whatever f(0) is.
// Types    XT, YT signed integers; AccT holds every product and sum; YT holds [low, high].
// Method   u = min(|x|, limit), `fraction` fraction bits; h = (c2*u + c1)*u + c0 for |x| < limit, `end` from there on, all in units
//          of 2**-16; n0, n1, n2, n_end are the coefficients for x < 0, p0 ... those from 0 on. With linear != 0 the result is h * x.
// Rounding each of the two products with u half up to 2**-16; requantize: half up, then saturation to [low, high].
// Speed    L values per cycle (II = 1); no table, and one engine for every function.
// Source   the quadratics of I-BERT, with other constants.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct Quadratic {
  Int<18> c0, c1, c2, end;
};

template <class XT, class AccT>
AccT unary_polynomial_value(XT x, int fraction, int limit, int linear, const Quadratic& below, const Quadratic& above) {
#pragma HLS INLINE
  const bool negative = x < 0;
  const Quadratic side = negative ? below : above;
  const int magnitude = negative ? -int(x) : int(x);
  const int u = magnitude < limit ? magnitude : limit;
  const AccT first = shift_round_half_up<AccT>(AccT(AccT(side.c2) * AccT(u)), shift_t(fraction));
  const AccT slope = AccT(first + AccT(side.c1));
  const AccT second = shift_round_half_up<AccT>(AccT(slope * AccT(u)), shift_t(fraction));
  const AccT inner = AccT(second + AccT(side.c0));
  const AccT h = magnitude < limit ? inner : AccT(side.end);
  return linear ? AccT(h * AccT(x)) : h;
}

template <class XT, class AccT, class YT, int L>
void unary_polynomial(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, int rows, int tiles, int channels, int fraction, int limit,
                      int linear, int n0, int n1, int n2, int n_end, int p0, int p1, int p2, int p_end, int multiplier, int shift, int low,
                      int high) {
  static_assert(width<YT>::value >= 16, "unary_polynomial: outputs have at least 16 bits");
  static_assert(width<XT>::value <= 16, "unary_polynomial: inputs have at most 16 bits");
  static_assert(width<AccT>::value >= 34, "unary_polynomial: AccT must hold a coefficient times |x|");
  const Quadratic below = {Int<18>(n0), Int<18>(n1), Int<18>(n2), Int<18>(n_end)};
  const Quadratic above = {Int<18>(p0), Int<18>(p1), Int<18>(p2), Int<18>(p_end)};
  const int vectors = rows * tiles;
  int row = 0, first = 0;
  ATTNC_LOOP(UNARY_POLYNOMIAL)
UNARY_POLYNOMIAL:
  for (int i = 0; i < vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(UNARY_POLYNOMIAL)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const AccT acc = unary_polynomial_value<XT, AccT>(in.v[l], fraction, limit, linear, below, above);
      const Int<32> q = requantize<AccT>(acc, multiplier_t(multiplier), shift_t(shift), low, high);
      out.v[l] = first + l < channels ? YT(q) : YT(0);
    }
    y.write(out);
    const bool last = row + 1 == rows;
    row = last ? 0 : row + 1;
    first = last ? first + L : first;
  }
}

}  // namespace attnc
