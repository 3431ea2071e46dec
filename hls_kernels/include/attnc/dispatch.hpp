#pragma once
// dispatch: y[places[row, j]] = requantize(x[row]) for j < k: rows by expert, where `places` says which comes where (expert_order.hpp).
//
// Shapes   x [rows, tiles*L], y [rows*k, tiles*L] in (tile, row) order; places [rows, L], read first, each number below rows*k once.
// Types    XT, IT, YT signed integers of 16 bits.
// Rounding half up, saturation to [low, high]; equal scales give an exact copy.
// Method   the rows of a tile are held while the next tile comes, one in k cycles; a row of y leaves per cycle.
// Speed    (tiles + 1) * (rows*k + MOVE_SETTLE) cycles, behind rows*k.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct DispatchCall {
  int rows, k, tiles, multiplier, shift, low, high;
  int pairs, trips;  // rows * k; (tiles + 1) * (pairs + MOVE_SETTLE)
};

static constexpr int MOVE_SETTLE = 4;  // cycles after which what was written can be read; the pragmas repeat the number

template <class XT, class IT, class YT, int L, int ROWS_MAX, int PAIRS_MAX>
void dispatch(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<IT, L>>& places, hls::stream<Vec<YT, L>>& y, DispatchCall call) {
  static_assert(width<YT>::value >= 16, "dispatch: outputs have at least 16 bits");
  static Vec<XT, L> held[2][ROWS_MAX];
#pragma HLS AGGREGATE variable = held
#ifdef ATTNC_DISPATCH_HELD
  ATTNC_BIND(held, ATTNC_DISPATCH_HELD)
#endif
  UInt<15> token[PAIRS_MAX];
  Vec<IT, L> one = Vec<IT, L>();
  int row = 0, j = 0;
  ATTNC_LOOP(TAKE_PLACES)
TAKE_PLACES:
  for (int i = 0; i < call.pairs; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = PAIRS_MAX
    ATTNC_TICK(TAKE_PLACES)
    if (j == 0) one = places.read();
    token[int(lane_of<1>(one, j, 0))] = UInt<15>(row);
    row = j + 1 == call.k ? row + 1 : row;
    j = j + 1 == call.k ? 0 : j + 1;
  }
  int tile = 0, at = 0;
  row = j = 0;
  ATTNC_LOOP(DISPATCH)
DISPATCH:
  for (int i = 0; i < call.trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
#pragma HLS DEPENDENCE variable = held inter RAW distance = 4 true
    ATTNC_TICK(DISPATCH)
    if (tile < call.tiles && j == 0 && row < call.rows) held[tile & 1][row] = x.read();
    if (tile > 0 && at < call.pairs) {
      const Vec<XT, L> in = held[(tile + 1) & 1][int(token[at])];
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        out.v[l] = YT(requantize<XT>(in.v[l], multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
      }
      y.write(out);
    }
    const bool ends = at + 1 == call.pairs + MOVE_SETTLE;
    tile = ends ? tile + 1 : tile;
    at = ends ? 0 : at + 1;
    row = ends ? 0 : j + 1 == call.k ? row + 1 : row;
    j = ends || j + 1 == call.k ? 0 : j + 1;
  }
}

}  // namespace attnc
