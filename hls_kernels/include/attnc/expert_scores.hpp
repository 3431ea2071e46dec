#pragma once
// expert_scores: y[row, j] = clamp(x[row, which[row, j]] * multiplier / 2**shift), rounded half up; with normalise != 0 divided by the sum of
// the row's k too, and 0 where that is not positive.
//
// Shapes   x [rows, tiles*L] in (tile, row) order; which [rows, L], read first, channels of x in lanes below k; y [rows, L], 0 from lane k on.
// Types    XT, IT, YT signed integers of 16 bits.
// Method   sum = mantissa / 2**left with SUM_BITS bits of mantissa; factor = (multiplier * 2**SUM_BITS + mantissa/2) / mantissa, one division
//          per row; y = x * factor / 2**(shift + SUM_BITS - left).
// Speed    a vector per cycle, SCORE_SETTLE cycles per tile at least.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct ExpertScoresCall {
  int rows, tiles, k, normalise, multiplier, shift, low, high;
  int trips;  // tiles * max(rows, SCORE_SETTLE)
};

static constexpr int SCORE_SETTLE = 4;  // the pragma repeats the number
static constexpr int SUM_BITS = 21;     // of 64 scores at most

template <class XT, class IT, class YT, int L, int ROWS_MAX>
void expert_scores(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<IT, L>>& which, hls::stream<Vec<YT, L>>& y, ExpertScoresCall call) {
  static_assert(width<YT>::value >= 16 && L <= 64, "expert_scores: outputs have at least 16 bits, of 64 scores at most");
  typedef UInt<MULTIPLIER_BITS + SUM_BITS + 1> quotient_t;
  typedef Int<MULTIPLIER_BITS + 2> factor_t;
  typedef Int<width<XT>::value + MULTIPLIER_BITS + 3> product_t;
  Vec<IT, L> channels[ROWS_MAX];
  Vec<XT, L> picked[ROWS_MAX];
#pragma HLS AGGREGATE variable = channels
#pragma HLS AGGREGATE variable = picked
  ATTNC_LOOP(TAKE_CHANNELS)
TAKE_CHANNELS:
  for (int i = 0; i < call.rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(TAKE_CHANNELS)
    channels[i] = which.read();
  }
  int tile = 0, row = 0;
  ATTNC_LOOP(PICK_SCORES)
PICK_SCORES:
  for (int i = 0; i < call.trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 4 max = 4096
#pragma HLS DEPENDENCE variable = picked inter RAW distance = 4 true
    ATTNC_TICK(PICK_SCORES)
    if (row < call.rows) {
      const Vec<XT, L> in = x.read();
      const Vec<IT, L> wanted = channels[row];
      Vec<XT, L> all = picked[row];
      for (int j = 0; j < L; ++j) {
#pragma HLS UNROLL
        XT found = 0;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          if ((int(wanted.v[j]) & (L - 1)) == l) found = in.v[l];
        }
        const XT before = tile == 0 ? XT(0) : all.v[j];
        all.v[j] = j < call.k && int(wanted.v[j]) / L == tile ? found : before;
      }
      picked[row] = all;
    }
    const bool ends = row + 1 >= call.rows && row + 1 >= SCORE_SETTLE;
    row = ends ? 0 : row + 1;
    tile = ends ? tile + 1 : tile;
  }
  ATTNC_LOOP(GIVE_SCORES)
GIVE_SCORES:
  for (int i = 0; i < call.rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(GIVE_SCORES)
    const Vec<XT, L> all = picked[i];
    Int<SUM_BITS + 1> sum = 0;
    for (int j = 0; j < L; ++j) {
#pragma HLS UNROLL
      sum = Int<SUM_BITS + 1>(sum + all.v[j]);
    }
    const bool usable = sum > 0;
    const UInt<SUM_BITS> positive = usable ? UInt<SUM_BITS>(sum) : UInt<SUM_BITS>(1);
    const int left = SUM_BITS - bit_length(positive);
    const UInt<SUM_BITS> mantissa = UInt<SUM_BITS>(positive << left);
    const quotient_t numerator = quotient_t((quotient_t(call.multiplier) << SUM_BITS) + quotient_t(mantissa >> 1));
    const factor_t by_sum = usable ? factor_t(numerator / quotient_t(mantissa)) : factor_t(0);
    const factor_t factor = call.normalise != 0 ? by_sum : factor_t(call.multiplier);
    const shift_t shift = shift_t(call.normalise != 0 ? call.shift + SUM_BITS - left : call.shift);
    Vec<YT, L> out;
    for (int j = 0; j < L; ++j) {
#pragma HLS UNROLL
      const product_t rounded = shift_round_half_up<product_t>(product_t(product_t(all.v[j]) * product_t(factor)), shift);
      out.v[j] = YT(clamp<product_t>(rounded, product_t(call.low), product_t(call.high)));
    }
    y.write(out);
  }
}

}  // namespace attnc
