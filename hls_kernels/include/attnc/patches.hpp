#pragma once
// patches: one tap of a convolution: requantized pixels where the tap lies inside the picture, zeros elsewhere.
//
// Shapes   y [height*width, tiles*L] in (tile, row, column) order. Only positions with top <= row < bottom and left <= column < right
//          of the first `used` tiles take a vector from x, in the same order.
// Types    XT, YT signed integers; YT holds [low, high], and that range holds 0.
// Rounding requantize: half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct PatchesCall {
  int tiles, used, height, width, top, bottom, left, right, multiplier, shift, low, high;
  int vectors;  // tiles * height * width
};

template <class XT, class YT, int L>
void patches(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, PatchesCall call) {
  static_assert(width<YT>::value >= 16, "patches: outputs have at least 16 bits");
  int tile = 0, row = 0, column = 0;
  ATTNC_LOOP(PATCHES)
PATCHES:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(PATCHES)
    const bool inside = tile < call.used && row >= call.top && row < call.bottom && column >= call.left && column < call.right;
    Vec<XT, L> in;
    if (inside) in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const XT value = inside ? in.v[l] : XT(0);
      out.v[l] = YT(requantize<XT>(value, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
    }
    y.write(out);
    const bool row_ends = column + 1 == call.width;
    const bool tile_ends = row_ends && row + 1 == call.height;
    column = row_ends ? 0 : column + 1;
    row = tile_ends ? 0 : row_ends ? row + 1 : row;
    tile = tile_ends ? tile + 1 : tile;
  }
}

}  // namespace attnc
