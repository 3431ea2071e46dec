#pragma once
// transpose: y = requantize(x) with rows and channels exchanged.
//
// Shapes   x `blocks` runs of `rows` rows (at most L) of `tiles` tiles, in (block, tile, row) order; y `channels` rows per block, in
//          (block, row) order: each block is a tile of y. Lanes of y past `rows` are 0.
// Types    XT, YT signed integers; YT holds [low, high].
// Rounding requantize: half up, then saturation to [low, high].
// Speed    a square of L x L elements in L cycles (II = 1): one fills while the one before leaves.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct TransposeCall {
  int blocks, rows, tiles, channels, multiplier, shift, low, high;
  int squares;  // blocks * tiles
};

template <class XT, class YT, int L> void transpose(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, TransposeCall call) {
  static_assert(width<YT>::value >= 16, "transpose: outputs have at least 16 bits");
  XT square[2][L][L];
#pragma HLS ARRAY_PARTITION variable = square dim = 0 complete
  // Square `number` fills; the one before, tile `tile` of its block, leaves.
  int number = 0, tile = 0, at = 0;
  ATTNC_LOOP(TRANSPOSE)
TRANSPOSE:
  for (int i = 0; i < (call.squares + 1) * L; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 2 * L max = 4096
    ATTNC_TICK(TRANSPOSE)
    if (number > 0 && tile * L + at < call.channels) {
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const XT value = l < call.rows ? square[(number + 1) & 1][l][at] : XT(0);
        out.v[l] = YT(requantize<XT>(value, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
      }
      y.write(out);
    }
    if (number < call.squares && at < call.rows) {
      const Vec<XT, L> in = x.read();
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        square[number & 1][at][l] = in.v[l];
      }
    }
    const bool ends = at + 1 == L;
    tile = !ends || number == 0 ? tile : tile + 1 == call.tiles ? 0 : tile + 1;
    number = ends ? number + 1 : number;
    at = ends ? 0 : at + 1;
  }
}

}  // namespace attnc
