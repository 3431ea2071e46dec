#pragma once
// mul: y = requantize(a * b).
//
// Shapes   a, y [rows, tiles*L]; b the same, or one row that multiplies every row (broadcast != 0): then b's stream has one
//          vector per tile. Streams in (tile, row) order. With PAIRED = 0 b is always one row.
// Types    AT, BT, YT signed integers, BT of at most 16 bits; YT holds [low, high].
// Method   (a * b) * multiplier; where b is one row, a * (b * multiplier): the factors of the next tile are made while one passes, one
//          after the other. Both are exact.
// Rounding requantize: half up, then saturation to [low, high]. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1); with PAIRED = 0 a tile takes max(rows, L) cycles, and the first factors take L.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct MulCall {
  int rows, tiles, broadcast, multiplier, shift, low, high;
  int vectors, padded;  // rows * tiles; where one row multiplies every row max(rows, L) * tiles
};

// b has a row for every row of a, or one for all.
template <class AT, class BT, class YT, int L>
void mul_rows(hls::stream<Vec<AT, L>>& a, hls::stream<Vec<BT, L>>& b, hls::stream<Vec<YT, L>>& y, MulCall call) {
  typedef Int<width<AT>::value + width<BT>::value> factor_t;
  // The product, the multiplier, and a bit for the rounding.
  typedef Int<width<factor_t>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t kept = kept_by<YT, product_t>(shift_t(call.shift));
  int row = 0;
  Vec<BT, L> b_vec;
  ATTNC_LOOP(MUL)
MUL:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(MUL)
    const Vec<AT, L> a_vec = a.read();
    if (row == 0 || call.broadcast == 0) b_vec = b.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const factor_t factor = factor_t(factor_t(a_vec.v[l]) * factor_t(b_vec.v[l]));
      const product_t product = wide_product<product_t, factor_t, multiplier_t>(factor, multiplier_t(call.multiplier));
      out.v[l] = shift_clamp<YT, product_t>(product, shift_t(call.shift), kept, YT(call.low), YT(call.high));
    }
    y.write(out);
    row = row + 1 == call.rows ? 0 : row + 1;
  }
}

// b has one row.
template <class AT, class BT, class YT, int L>
void mul_by_row(hls::stream<Vec<AT, L>>& a, hls::stream<Vec<BT, L>>& b, hls::stream<Vec<YT, L>>& y, MulCall call) {
  typedef Int<width<BT>::value + MULTIPLIER_BITS> factor_t;
  typedef Int<width<AT>::value + width<BT>::value + MULTIPLIER_BITS + 2> product_t;
  const product_t kept = kept_by<YT, product_t>(shift_t(call.shift));
  const int slots = call.rows > L ? call.rows : L;
  Vec<BT, L> b_vec;
#pragma HLS ARRAY_PARTITION variable = b_vec.v complete
  factor_t factors[2][L];
#pragma HLS ARRAY_PARTITION variable = factors dim = 0 complete
  // Tile -1 passes nothing: it makes the factors of tile 0.
  int tile = -1, at = 0;
  ATTNC_LOOP(MUL_BY_ROW)
MUL_BY_ROW:
  for (int i = 0; i < L + call.padded; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = L max = 65536
    ATTNC_TICK(MUL_BY_ROW)
    if (tile + 1 < call.tiles && at < L) {
      if (at == 0) b_vec = b.read();
      factors[(tile + 1) & 1][at] = factor_t(factor_t(b_vec.v[at]) * factor_t(multiplier_t(call.multiplier)));
    }
    if (tile >= 0 && at < call.rows) {
      const Vec<AT, L> a_vec = a.read();
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const product_t product = wide_product<product_t, factor_t, AT>(factors[tile & 1][l], a_vec.v[l]);
        out.v[l] = shift_clamp<YT, product_t>(product, shift_t(call.shift), kept, YT(call.low), YT(call.high));
      }
      y.write(out);
    }
    const bool ends = at + 1 == (tile < 0 ? L : slots);
    tile = ends ? tile + 1 : tile;
    at = ends ? 0 : at + 1;
  }
}

template <class AT, class BT, class YT, int L, int PAIRED>
void mul(hls::stream<Vec<AT, L>>& a, hls::stream<Vec<BT, L>>& b, hls::stream<Vec<YT, L>>& y, MulCall call) {
  static_assert(width<AT>::value <= 16 && width<BT>::value <= 16, "mul: inputs have at most 16 bits");
  static_assert(width<YT>::value >= 16, "mul: outputs have at least 16 bits");
  static_assert(PAIRED == 0 || PAIRED == 1, "mul: b has rows of its own (1), or is always one row (0)");
  if (PAIRED != 0) {
    mul_rows<AT, BT, YT, L>(a, b, y, call);
  } else {
    mul_by_row<AT, BT, YT, L>(a, b, y, call);
  }
}

}  // namespace attnc
