#pragma once
// add: y = clamp((a*multiplier_a + b*multiplier_b) / 2**shift), rounded half up once.
//
// Shapes   a, y [rows, tiles*L]; b the same, or one row that is added to every row (broadcast != 0): then b's stream has one
//          vector per tile. Streams in (tile, row) order.
// Types    AT, BT, YT signed integers; YT holds [low, high].
// Rounding half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct AddCall {
  int rows, tiles, broadcast, multiplier_a, multiplier_b, shift, low, high;
  int vectors;  // rows * tiles
};

template <class AT, class BT, class YT, int L>
void add(hls::stream<Vec<AT, L>>& a, hls::stream<Vec<BT, L>>& b, hls::stream<Vec<YT, L>>& y, AddCall call) {
  static_assert(width<YT>::value >= 16, "add: outputs have at least 16 bits");
  // Two products and their sum, and a bit for the rounding.
  typedef Int<max_of(width<AT>::value, width<BT>::value) + MULTIPLIER_BITS + 3> sum_t;
  const sum_t kept = kept_by<YT, sum_t>(shift_t(call.shift));
  int row = 0;
  Vec<BT, L> b_vec;
  ATTNC_LOOP(ADD)
ADD:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(ADD)
    const Vec<AT, L> a_vec = a.read();
    if (row == 0 || call.broadcast == 0) b_vec = b.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const sum_t first = sum_t(a_vec.v[l]) * sum_t(multiplier_t(call.multiplier_a));
      const sum_t second = sum_t(b_vec.v[l]) * sum_t(multiplier_t(call.multiplier_b));
      out.v[l] = shift_clamp<YT, sum_t>(sum_t(first + second), shift_t(call.shift), kept, YT(call.low), YT(call.high));
    }
    y.write(out);
    row = row + 1 == call.rows ? 0 : row + 1;
  }
}

}  // namespace attnc
