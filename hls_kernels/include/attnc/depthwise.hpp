#pragma once
// depthwise: y = requantize(sum over taps of x * weight, + bias), channel by channel.
//
// Shapes   x `taps` times [rows, tiles*L], in (tile, tap, row) order; y [rows, tiles*L] in (tile, row) order.
// Types    XT signed integers, bytes or 16 bits; WT signed bytes; AccT holds bias plus any sum of products; YT holds [low, high].
// Weights  a stream of words, per tile 4 with the bias (byte k of every lane), 4 with multiplier + 2**24 * shift, then one signed byte per
//          lane for each tap. All are 0 for padding lanes, so those stay 0.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    a block of rows is read, then computed, a vector per cycle each (II = 1): 2 * taps * rows cycles per tile.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct DepthwiseCall {
  int rows, tiles, taps, low, high;
  int products;  // rows * taps
};

template <class XT, class WT, class AccT, class YT, int L, int TAPS_MAX, int ROWS_MAX>
void depthwise(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, DepthwiseCall call) {
  static_assert(width<XT>::value <= 16 && width<WT>::value == 8, "depthwise: inputs of at most 16 bits, weights of a byte");
  static_assert(width<YT>::value >= 16, "depthwise: outputs have at least 16 bits");
  static_assert(width<AccT>::value >= 32, "depthwise: the accumulator must hold a bias of 32 bits");
  static Vec<XT, L> buffer[TAPS_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = buffer
  Vec<WT, L> weight[TAPS_MAX];
#pragma HLS AGGREGATE variable = weight
  UInt<32> bias[L], record[L];
#pragma HLS ARRAY_PARTITION variable = bias complete
#pragma HLS ARRAY_PARTITION variable = record complete

TILES:
  for (int tile = 0; tile < call.tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    ATTNC_LOOP(READ_WEIGHTS)
  READ_WEIGHTS:
    for (int i = 0; i < 8 + call.taps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 9 max = 8 + TAPS_MAX
      ATTNC_TICK(READ_WEIGHTS)
      const Word<L> word = w.read();
      Vec<WT, L> values;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const UInt<32> part = UInt<32>(UInt<32>(word.v[l]) << (8 * (i & 3)));
        if (i < 4) {
          bias[l] = i == 0 ? part : UInt<32>(bias[l] | part);
        } else if (i < 8) {
          record[l] = i == 4 ? part : UInt<32>(record[l] | part);
        }
        values.v[l] = WT(Int<8>(word.v[l]));
      }
      if (i >= 8) weight[i - 8] = values;
    }
  READ_TAPS:
    for (int tap = 0; tap < call.taps; ++tap) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TAPS_MAX
      ATTNC_LOOP(READ_X)
    READ_X:
      for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
        ATTNC_TICK(READ_X)
        buffer[tap][row] = x.read();
      }
    }
    int tap = 0, row = 0;
    AccT acc[L];
#pragma HLS ARRAY_PARTITION variable = acc complete
    ATTNC_LOOP(MULTIPLY)
  MULTIPLY:
    for (int i = 0; i < call.products; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX * TAPS_MAX
      ATTNC_TICK(MULTIPLY)
      const Vec<XT, L> xs = buffer[tap][row];
      const Vec<WT, L> ws = weight[tap];
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const AccT before = tap == 0 ? AccT(Int<32>(bias[l])) : acc[l];
        const AccT sum = before + AccT(xs.v[l]) * AccT(ws.v[l]);
        acc[l] = sum;
        out.v[l] = YT(requantize<AccT>(sum, multiplier_t(record[l] & UInt<32>(0xffffff)), shift_t(record[l] >> 24), call.low, call.high));
      }
      const bool last = tap + 1 == call.taps;
      if (last) y.write(out);
      tap = last ? 0 : tap + 1;
      row = last ? row + 1 : row;
    }
  }
}

}  // namespace attnc
