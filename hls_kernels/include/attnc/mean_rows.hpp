#pragma once
// mean_rows: y = requantize(sum of `rows` consecutive rows); the division by `rows` lies in the multiplier.
//
// Shapes   x `groups` runs of `rows` vectors, y one vector per run. In (tile, row) order every tile of a tensor gives runs alike, so
//          `groups` counts those of all tiles.
// Types    XT, YT signed integers; AccT holds rows * max|x|; YT holds [low, high].
// Rounding requantize: half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct MeanRowsCall {
  int groups, rows, multiplier, shift, low, high;
  int vectors;  // groups * rows
};

template <class XT, class AccT, class YT, int L>
void mean_rows(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, MeanRowsCall call) {
  static_assert(width<YT>::value >= 16, "mean_rows: outputs have at least 16 bits");
  static_assert(width<AccT>::value >= width<XT>::value, "mean_rows: the accumulator must hold an input");
  int row = 0;
  AccT acc[L];
#pragma HLS ARRAY_PARTITION variable = acc complete
  ATTNC_LOOP(MEAN_ROWS)
MEAN_ROWS:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(MEAN_ROWS)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const AccT sum = (row == 0 ? AccT(0) : acc[l]) + AccT(in.v[l]);
      acc[l] = sum;
      out.v[l] = YT(requantize<AccT>(sum, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
    }
    const bool last = row + 1 == call.rows;
    if (last) y.write(out);
    row = last ? 0 : row + 1;
  }
}

}  // namespace attnc
