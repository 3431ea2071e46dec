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

struct UnaryPolynomialCall {
  int rows, tiles, channels, fraction, limit, linear, n0, n1, n2, n_end, p0, p1, p2, p_end, multiplier, shift, low, high;
  int vectors;  // rows * tiles
};

struct Quadratic {
  Int<18> c0, c1, c2, end;
};

template <class XT, class AccT>
AccT unary_polynomial_value(XT x, const Quadratic& below, const Quadratic& above, const UnaryPolynomialCall& call) {
#pragma HLS INLINE
  const bool negative = x < 0;
  const Quadratic side = negative ? below : above;
  const int magnitude = negative ? -int(x) : int(x);
  const int u = magnitude < call.limit ? magnitude : call.limit;
  const AccT first = shift_round_half_up<AccT>(AccT(AccT(side.c2) * AccT(u)), shift_t(call.fraction));
  const AccT slope = AccT(first + AccT(side.c1));
  const AccT second = shift_round_half_up<AccT>(AccT(slope * AccT(u)), shift_t(call.fraction));
  const AccT inner = AccT(second + AccT(side.c0));
  const AccT h = magnitude < call.limit ? inner : AccT(side.end);
  return call.linear ? AccT(h * AccT(x)) : h;
}

template <class XT, class AccT, class YT, int L>
void unary_polynomial(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, UnaryPolynomialCall call) {
  static_assert(width<YT>::value >= 16, "unary_polynomial: outputs have at least 16 bits");
  static_assert(width<XT>::value <= 16, "unary_polynomial: inputs have at most 16 bits");
  static_assert(width<AccT>::value >= 34, "unary_polynomial: AccT must hold a coefficient times |x|");
  const Quadratic below = {Int<18>(call.n0), Int<18>(call.n1), Int<18>(call.n2), Int<18>(call.n_end)};
  const Quadratic above = {Int<18>(call.p0), Int<18>(call.p1), Int<18>(call.p2), Int<18>(call.p_end)};
  int row = 0, first = 0;
  ATTNC_LOOP(UNARY_POLYNOMIAL)
UNARY_POLYNOMIAL:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(UNARY_POLYNOMIAL)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const AccT acc = unary_polynomial_value<XT, AccT>(in.v[l], below, above, call);
      const Int<32> q = requantize<AccT>(acc, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high);
      out.v[l] = first + l < call.channels ? YT(q) : YT(0);
    }
    y.write(out);
    const bool last = row + 1 == call.rows;
    row = last ? 0 : row + 1;
    first = last ? first + L : first;
  }
}

}  // namespace attnc
