#pragma once
// scale_rows: y[row, c] = clamp((x[row, c] * peak[row] * multiplier / 2**shift + bias[c]) / 2**8), both rounded half up.
//
// Shapes   x, y [rows, tiles*L] in (tile, row) order; peak [rows, L], read first, in lane 0.
// Types    XT, PeakT, YT signed integers of at most, and YT of at least, 16 bits; AccT holds the product; YT holds [low, high].
// Records  a stream of words, 4 per tile of L channels: word k holds byte k of every lane's bias + 2**7, s32, little endian: the half
//          that rounds to y is in it already. Those of padding lanes are 0, so these lanes stay 0.
// Speed    a row per cycle for the factors, then L values per cycle (II = 1); the records of the next tile are read while this one
//          passes, so a tile takes max(rows, 4) cycles.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct ScaleRowsCall {
  int rows, tiles, multiplier, shift, low, high;
  int padded;  // tiles * max(rows, PLANES)
};

template <class XT, class PeakT, class AccT, class YT, int L, int ROWS_MAX>
void scale_rows(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<PeakT, L>>& peak, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y,
                ScaleRowsCall call) {
  static_assert(width<XT>::value <= 16 && width<PeakT>::value <= 16, "scale_rows: inputs have at most 16 bits");
  static_assert(width<YT>::value >= 16, "scale_rows: outputs have at least 16 bits");
  static_assert(width<AccT>::value > 16 + 16 + MULTIPLIER_BITS, "scale_rows: AccT must hold a product of 16, 16 and 17 bits");
  static constexpr int PLANES = 4;
  static constexpr int FRACTION = 8;
  typedef Int<width<PeakT>::value + MULTIPLIER_BITS> factor_t;
  factor_t factors[ROWS_MAX];
  UInt<32> record[2][L];
#pragma HLS ARRAY_PARTITION variable = record dim = 0 complete
  const int slots = call.rows > PLANES ? call.rows : PLANES;

  ATTNC_LOOP(FACTORS)
FACTORS:
  for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(FACTORS)
    factors[row] = factor_t(factor_t(peak.read().v[0]) * factor_t(call.multiplier));
  }
  // Tile -1 passes nothing: it reads the records of tile 0.
  int tile = -1, at = 0;
  ATTNC_LOOP(SCALE_ROWS)
SCALE_ROWS:
  for (int i = 0; i < PLANES + call.padded; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 8 max = PLANES + 64 * ROWS_MAX
    ATTNC_TICK(SCALE_ROWS)
    if (tile + 1 < call.tiles && at < PLANES) {
      const Word<L> word = w.read();
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const UInt<32> before = at == 0 ? UInt<32>(0) : record[(tile + 1) & 1][l];
        record[(tile + 1) & 1][l] = UInt<32>(before | UInt<32>(UInt<32>(word.v[l]) << (8 * at)));
      }
    }
    if (tile >= 0 && at < call.rows) {
      const Vec<XT, L> in = x.read();
      const factor_t factor = factors[at];
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const AccT bias = AccT(Int<32>(record[tile & 1][l]));
        // In halves, so that one shifter gives the product and the bit that rounds it, which is the carry of the sum.
        const AccT product = wide_product<AccT, factor_t, XT>(factor, in.v[l]);
        const AccT halves = AccT(AccT(product * 2) >> int(shift_t(call.shift)));
        const AccT rounded = AccT(AccT((halves >> 1) + bias + (halves & 1)) >> FRACTION);
        out.v[l] = YT(clamp<AccT>(rounded, AccT(call.low), AccT(call.high)));
      }
      y.write(out);
    }
    const bool ends = at + 1 == (tile < 0 ? PLANES : slots);
    tile = ends ? tile + 1 : tile;
    at = ends ? 0 : at + 1;
  }
}

}  // namespace attnc
