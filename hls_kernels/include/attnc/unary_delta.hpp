#pragma once
// unary_delta: y = requantize(asymptote(x) - delta(|x|)), delta piecewise linear from a ROM.
//
// Shapes   x, y [rows, tiles*L], streams in (tile, row) order; the lanes of the last tile beyond `channels` give 0, whatever f(0) is.
// Types    XT, YT signed integers; AccT holds the asymptote and delta in units of 2**-(16 + step), ValueT their difference or sum;
//          YT holds [low, high].
// Method   a segment is 2**step codes; entry i of the ROM is base * 2**16 + (growth + 2**15): delta at the start of segment i of |x| and
//          its growth over the segment, both in units of 2**-16; delta is 0 beyond the ROM. With RELU >= 0 the asymptote is
//          max(x, 0) << RELU; else it is `below` for x < 0 and `above` from 0 on (units of 2**-16), and delta is added below. Exact.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    L values per cycle (II = 1): a copy of the ROM per lane.
// Source   ReLU minus delta as in Edge-MoE.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct UnaryDeltaCall {
  int rows, tiles, channels, step, below, above, multiplier, shift, low, high;
  int vectors;  // rows * tiles
};

// Not inlined: every lane is then an instance of its own, with a ROM of its own.
template <class Rom> Int<36> unary_delta_lookup(int index) {
#pragma HLS INLINE off
#pragma HLS PIPELINE II = 1
  return Int<36>(Rom::at(index));
}

template <class XT, class AccT, class ValueT, class Rom, int RELU> ValueT unary_delta_value(XT x, const UnaryDeltaCall& call) {
#pragma HLS INLINE
  const bool negative = x < 0;
  const int magnitude = negative ? -int(x) : int(x);
  const int segment = magnitude >> call.step;
  const bool inside = segment < int(Rom::size);
  const Int<36> entry = unary_delta_lookup<Rom>(inside ? segment : int(Rom::size) - 1);
  const Int<20> base = Int<20>(entry >> 16);
  const Int<17> growth = Int<17>(int(entry & Int<36>(0xffff)) - (1 << 15));
  const int along = magnitude & ((1 << call.step) - 1);
  // Products with powers of two, since C++ leaves the shift of a negative number undefined.
  const AccT start = AccT(AccT(base) * AccT(1 << call.step));
  const AccT delta = inside ? AccT(start + AccT(growth) * AccT(along)) : AccT(0);
  const AccT rising = AccT(AccT(negative ? 0 : magnitude) << (RELU < 0 ? 0 : RELU));
  const AccT level = AccT(AccT(negative ? call.below : call.above) * AccT(1 << call.step));
  const AccT asymptote = RELU < 0 ? level : rising;
  return RELU < 0 && negative ? ValueT(asymptote + delta) : ValueT(asymptote - delta);
}

template <class XT, class AccT, class ValueT, class YT, class Rom, int RELU, int L>
void unary_delta(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, UnaryDeltaCall call) {
  static_assert(width<YT>::value >= 16, "unary_delta: outputs have at least 16 bits");
  static_assert(width<XT>::value <= 16, "unary_delta: inputs have at most 16 bits");
  static_assert(width<AccT>::value >= 32, "unary_delta: AccT must hold 17 bits of the ROM shifted by up to 12");
  typedef Int<width<ValueT>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t kept = kept_by<YT, product_t>(shift_t(call.shift));
  int row = 0, first = 0;
  ATTNC_LOOP(UNARY_DELTA)
UNARY_DELTA:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(UNARY_DELTA)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const ValueT value = unary_delta_value<XT, AccT, ValueT, Rom, RELU>(in.v[l], call);
      const product_t product = wide_product<product_t, ValueT, multiplier_t>(value, multiplier_t(call.multiplier));
      const YT q = shift_clamp<YT, product_t>(product, shift_t(call.shift), kept, YT(call.low), YT(call.high));
      out.v[l] = first + l < call.channels ? q : YT(0);
    }
    y.write(out);
    const bool last = row + 1 == call.rows;
    row = last ? 0 : row + 1;
    first = last ? first + L : first;
  }
}

}  // namespace attnc
