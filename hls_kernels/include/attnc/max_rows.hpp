#pragma once
// max_rows: y = requantize(largest of `rows` consecutive rows), channel by channel.
//
// Shapes   x `groups` runs of `rows` vectors, y one vector per run. In (tile, row) order every tile of a tensor gives runs alike, so
//          `groups` counts those of all tiles.
// Types    XT, YT signed integers; YT holds [low, high].
// Rounding requantize: half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct MaxRowsCall {
  int groups, rows, multiplier, shift, low, high;
  int vectors;  // groups * rows
};

template <class XT, class YT, int L> void max_rows(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, MaxRowsCall call) {
  static_assert(width<YT>::value >= 16, "max_rows: outputs have at least 16 bits");
  int row = 0;
  XT largest[L];
#pragma HLS ARRAY_PARTITION variable = largest complete
  ATTNC_LOOP(MAX_ROWS)
MAX_ROWS:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(MAX_ROWS)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const XT value = row == 0 || largest[l] < in.v[l] ? in.v[l] : largest[l];
      largest[l] = value;
      out.v[l] = YT(requantize<XT>(value, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
    }
    const bool last = row + 1 == call.rows;
    if (last) y.write(out);
    row = last ? 0 : row + 1;
  }
}

}  // namespace attnc
