#pragma once
// combine: y[row] = requantize(sum over j < k of scores[row, j] * x[places[row, j]]): what the experts of a token made of it, added up.
//
// Shapes   x [rows*k, tiles*L], y [rows, tiles*L] in (tile, row) order; places and scores [rows, L], read first, one after the other.
// Types    XT, IT, ST, YT signed integers of 16 bits; AccT holds any sum of k products.
// Rounding the sum is exact; requantize: half up, saturation to [low, high].
// Method   the rows of a tile are held while the next tile comes; a product of a token per cycle.
// Speed    (tiles + 1) * (rows*k + MOVE_SETTLE) cycles, behind rows.

#include "attnc/dispatch.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct CombineCall {
  int rows, k, tiles, multiplier, shift, low, high;
  int pairs, trips;  // rows * k; (tiles + 1) * (pairs + MOVE_SETTLE)
};

template <class XT, class IT, class ST, class AccT, class YT, int L, int ROWS_MAX, int PAIRS_MAX>
void combine(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<IT, L>>& places, hls::stream<Vec<ST, L>>& scores, hls::stream<Vec<YT, L>>& y,
             CombineCall call) {
  static_assert(width<YT>::value >= 16, "combine: outputs have at least 16 bits");
  static Vec<XT, L> made[2][PAIRS_MAX];
#pragma HLS AGGREGATE variable = made
#ifdef ATTNC_COMBINE_MADE
  ATTNC_BIND(made, ATTNC_COMBINE_MADE)
#endif
  Vec<IT, L> place[ROWS_MAX];
  Vec<ST, L> score[ROWS_MAX];
#pragma HLS AGGREGATE variable = place
#pragma HLS AGGREGATE variable = score
  ATTNC_LOOP(TAKE_PAIRS)
TAKE_PAIRS:
  for (int i = 0; i < call.rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(TAKE_PAIRS)
    place[i] = places.read();
    score[i] = scores.read();
  }
  AccT acc[L];
#pragma HLS ARRAY_PARTITION variable = acc complete
  int tile = 0, at = 0, row = 0, j = 0;
  ATTNC_LOOP(COMBINE)
COMBINE:
  for (int i = 0; i < call.trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
#pragma HLS DEPENDENCE variable = made inter RAW distance = 4 true
    ATTNC_TICK(COMBINE)
    if (tile < call.tiles && at < call.pairs) made[tile & 1][at] = x.read();
    if (tile > 0 && at < call.pairs) {
      const Vec<XT, L> in = made[(tile + 1) & 1][int(place[row].v[j])];
      const ST factor = score[row].v[j];
      const bool last = j + 1 == call.k;
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const Int<width<XT>::value + width<ST>::value> product =
            Int<width<XT>::value + width<ST>::value>(in.v[l]) * Int<width<XT>::value + width<ST>::value>(factor);
        const AccT sum = AccT((j == 0 ? AccT(0) : acc[l]) + AccT(product));
        acc[l] = sum;
        out.v[l] = YT(requantize<AccT>(sum, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
      }
      if (last) y.write(out);
      row = last ? row + 1 : row;
      j = last ? 0 : j + 1;
    }
    const bool ends = at + 1 == call.pairs + MOVE_SETTLE;
    tile = ends ? tile + 1 : tile;
    at = ends ? 0 : at + 1;
    row = ends ? 0 : row;
  }
}

}  // namespace attnc
