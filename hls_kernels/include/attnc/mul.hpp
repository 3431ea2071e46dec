#pragma once
// mul: y = requantize(a * b).
//
// Shapes   a, y [rows, tiles*L]; b the same, or one row that multiplies every row (broadcast != 0): then b's stream has one
//          vector per tile. Streams in (tile, row) order.
// Types    AT, BT, YT signed integers; YT holds [low, high].
// Rounding requantize: half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

template <class AT, class BT, class YT, int L>
void mul(hls::stream<Vec<AT, L>>& a, hls::stream<Vec<BT, L>>& b, hls::stream<Vec<YT, L>>& y, int rows, int tiles, int broadcast,
         int multiplier, int shift, int low, int high) {
  static_assert(width<YT>::value >= 16, "mul: outputs have at least 16 bits");
  // The product, the multiplier, and a bit for the rounding.
  typedef Int<width<AT>::value + width<BT>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t kept = kept_by<YT, product_t>(shift_t(shift));
  const int vectors = rows * tiles;
  int row = 0;
  Vec<BT, L> b_vec;
MUL:
  for (int i = 0; i < vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    const Vec<AT, L> a_vec = a.read();
    if (row == 0 || broadcast == 0) b_vec = b.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const product_t product = product_t(product_t(a_vec.v[l]) * product_t(b_vec.v[l])) * product_t(multiplier_t(multiplier));
      out.v[l] = shift_clamp<YT, product_t>(product, shift_t(shift), kept, YT(low), YT(high));
    }
    y.write(out);
    row = row + 1 == rows ? 0 : row + 1;
  }
}

}  // namespace attnc
