#pragma once
// rescale: y[row, c] = requantize(x[row, c]) with a multiplier and a shift per channel; also copies rows.
//
// Shapes   x, y [rows, tiles*L], streams in (tile, row) order; the walks decide which rows of memory these are.
// Types    XT, YT signed integers; YT holds [low, high].
// Records  a stream of words, 4 per tile of L channels: word k holds byte k of every lane's record, and a record is
//          multiplier + 2**24 * shift + 2**31, little endian. Records of padding lanes are 0, and those lanes stay 0 where
//          [low, high] does not hold it too (a function that is at least 1, say).
// Rounding requantize: half up, then saturation to [low, high].
// Speed    L values per cycle (II = 1); the records of the next tile are read while this one passes, so a tile takes
//          max(rows, 4) cycles.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct RescaleCall {
  int rows, tiles, low, high;
};

template <class XT, class YT, int L>
void rescale(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, RescaleCall call) {
  static_assert(width<YT>::value >= 16, "rescale: outputs have at least 16 bits");
  static const int PLANES = 4;
  UInt<32> record[2][L];
#pragma HLS ARRAY_PARTITION variable = record dim = 0 complete
  const int slots = call.rows > PLANES ? call.rows : PLANES;

  // Tile -1 passes nothing: it reads the records of tile 0.
RESCALE_TILES:
  for (int tile = -1; tile < call.tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const bool passing = tile >= 0;
    const bool loading = tile + 1 < call.tiles;
    const int trips = passing ? slots : PLANES;
    ATTNC_LOOP(RESCALE_ROWS)
  RESCALE_ROWS:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 4 max = 256
      ATTNC_TICK(RESCALE_ROWS)
      if (loading && i < PLANES) {
        const Word<L> word = w.read();
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          const UInt<32> before = i == 0 ? UInt<32>(0) : record[(tile + 1) & 1][l];
          record[(tile + 1) & 1][l] = UInt<32>(before | UInt<32>(UInt<32>(word.v[l]) << (8 * i)));
        }
      }
      if (passing && i < call.rows) {
        const Vec<XT, L> in = x.read();
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          const UInt<32> r = record[tile & 1][l];
          const shift_t shift = shift_t((r >> 24) & UInt<32>(0x3f));
          const YT moved = YT(requantize<XT>(in.v[l], multiplier_t(r & UInt<32>(0xffffff)), shift, call.low, call.high));
          out.v[l] = (r >> 31) != 0 ? moved : YT(0);
        }
        y.write(out);
      }
    }
  }
}

}  // namespace attnc
