#pragma once
// row_absmax: y[row] = requantize(max over channels of |x[row, c]|).
//
// Shapes   x [rows, tiles*L] in (tile, row) order; lanes beyond the channels are 0. y [rows, L], the result in lane 0, else 0.
// Types    XT, YT signed integers of at most, and at least, 16 bits; YT holds `high`.
// Rounding requantize: half up, then saturation at `high`. Equal scales copy exactly.
// Speed    L values per cycle (II = 1), then a row per cycle. The maximum of a row is looked at every 4 cycles: a tile of a few rows takes as
//          many, and a row that is alone has 4 maxima, of every 4th tile each.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct RowAbsmaxCall {
  int rows, tiles, multiplier, shift, high;
  int lone, padded, peaks;  // whether there is one row; iterations, and maxima
};

template <class XT, class YT, int L, int ROWS_MAX>
void row_absmax(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, RowAbsmaxCall call) {
  static_assert(width<XT>::value <= 16, "row_absmax: inputs have at most 16 bits");
  static_assert(width<YT>::value >= 16, "row_absmax: outputs have at least 16 bits");
  static constexpr int SLOTS = 4;  // cycles between two looks at the same row's maximum
  typedef Int<18> magnitude_t;
  magnitude_t peaks[max_of(ROWS_MAX, SLOTS)];
  const bool lone = call.lone != 0;
  const int slots = lone ? 1 : max_of(call.rows, SLOTS);

  int tile = 0, row = 0;
  ATTNC_LOOP(ABSMAX_ROWS)
ABSMAX_ROWS:
  for (int i = 0; i < call.padded; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 4 max = 64 * ROWS_MAX
#pragma HLS DEPENDENCE variable = peaks inter RAW distance = 4 true
    ATTNC_TICK(ABSMAX_ROWS)
    if (row < call.rows) {
      const Vec<XT, L> in = x.read();
      // The largest of the lanes by a tree, so that one comparison alone waits for the row's maximum so far.
      magnitude_t largest[L];
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const magnitude_t value = magnitude_t(in.v[l]);
        largest[l] = value < 0 ? magnitude_t(-value) : value;
      }
      for (int half = L / 2; half > 0; half /= 2) {
#pragma HLS UNROLL
        for (int l = 0; l < half; ++l) {
#pragma HLS UNROLL
          largest[l] = largest[l] < largest[l + half] ? largest[l + half] : largest[l];
        }
      }
      const int at = lone ? tile % SLOTS : row;
      const magnitude_t peak = tile < (lone ? SLOTS : 1) ? magnitude_t(0) : peaks[at];
      peaks[at] = peak < largest[0] ? largest[0] : peak;
    }
    tile = row + 1 == slots ? tile + 1 : tile;
    row = row + 1 == slots ? 0 : row + 1;
  }
  magnitude_t largest = 0;
  ATTNC_LOOP(ABSMAX_WRITE)
ABSMAX_WRITE:
  for (int i = 0; i < call.peaks; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(ABSMAX_WRITE)
    largest = !lone || largest < peaks[i] ? peaks[i] : largest;
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      out.v[l] = YT(0);
    }
    out.v[0] = YT(requantize<magnitude_t>(largest, multiplier_t(call.multiplier), shift_t(call.shift), 0, call.high));
    if (!lone || i + 1 == call.peaks) y.write(out);
  }
}

}  // namespace attnc
