#pragma once
// rotary: pairs of channels of every head turned by an angle per position, (a, b) -> (a cos - b sin, b cos + a sin).
//
// Shapes   x, y [rows, heads * head_tiles * L] in (tile, row) order; the first `rotary_dims` channels of a head are turned, the others
//          rescaled. other: nothing where pairs are adjacent (half_tiles = 0); else the first and second halves lie half_tiles tiles apart,
//          and `other` is the turned tiles of x in the same order with the halves of every head exchanged.
// Table    a stream of words, per row and turned tile 2: the low, then the high bytes of L signed 16-bit numbers. A channel that comes first
//          in its pair holds the cosine, the one that comes second the sine, both in units of 1 / one. table_rows is rows, or 1 for all.
// Types    XT, YT signed integers; YT holds [low, high].
// Rounding both products and their sum are exact; requantize: half up, then saturation to [low, high].
// Speed    L values per cycle (II = 1), after 2 cycles per row and turned tile for the table, which serves all heads.
// Source   pairs made adjacent by a permutation of the weights before, so that the stream never waits for the other half.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct RotaryCall {
  int rows, table_rows, heads, head_tiles, turned_tiles, half_tiles, rotary_dims, one, multiplier, shift, low, high;
  int words, vectors;  // 2 * table_rows * turned_tiles, rows * heads * head_tiles
};

template <class XT, class YT, int TILES_MAX, int ROWS_MAX, int L>
void rotary(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<XT, L>>& other, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y,
            RotaryCall call) {
  static_assert(L >= 2, "rotary: a pair of channels needs at least two lanes");
  static_assert(width<XT>::value <= 16, "rotary: inputs have at most 16 bits");
  static_assert(width<YT>::value >= 16, "rotary: outputs have at least 16 bits");
  typedef Int<33> acc_t;
  static Vec<Int<16>, L> table[TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = table
  int tile = 0, row = 0;
  Word<L> first;
  ATTNC_LOOP(READ_TABLE)
READ_TABLE:
  for (int i = 0; i < call.words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 2 * TILES_MAX * ROWS_MAX
    ATTNC_TICK(READ_TABLE)
    const Word<L> word = w.read();
    if (i % 2 == 1) {
      Vec<Int<16>, L> entry;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        entry.v[l] = Int<16>(UInt<16>((UInt<16>(word.v[l]) << 8) | first.v[l]));
      }
      table[tile][row] = entry;
      row = tile + 1 == call.turned_tiles ? row + 1 : row;
      tile = tile + 1 == call.turned_tiles ? 0 : tile + 1;
    }
    first = word;
  }

  const bool adjacent = call.half_tiles == 0, alike = call.table_rows == 1;
  tile = 0;
  row = 0;
  ATTNC_LOOP(ROTATE)
ROTATE:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(ROTATE)
    const Vec<XT, L> in = x.read();
    const bool turned = tile < call.turned_tiles;
    const bool second_half = tile >= call.half_tiles;
    const int cos_tile = !turned ? 0 : adjacent || !second_half ? tile : tile - call.half_tiles;
    const int place = alike ? 0 : row;
    const Vec<Int<16>, L> near = table[cos_tile][place];
    const Vec<Int<16>, L> far = table[turned ? cos_tile + call.half_tiles : 0][place];
    Vec<XT, L> partner = in;
    if (turned && !adjacent) partner = other.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const Int<16> cosine = adjacent ? near.v[l & ~1] : near.v[l];
      const Int<16> sine = adjacent ? near.v[l | 1] : far.v[l];
      const XT opposite = adjacent ? in.v[l ^ 1] : partner.v[l];
      const bool comes_first = adjacent ? (l & 1) == 0 : !second_half;
      const acc_t straight = acc_t(in.v[l]) * acc_t(cosine), crossed = acc_t(opposite) * acc_t(sine);
      const acc_t rotated = comes_first ? acc_t(straight - crossed) : acc_t(straight + crossed);
      const acc_t acc = turned && tile * L + l < call.rotary_dims ? rotated : acc_t(acc_t(in.v[l]) * acc_t(call.one));
      out.v[l] = YT(requantize<acc_t>(acc, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
    }
    y.write(out);
    const bool last = row + 1 == call.rows;
    row = last ? 0 : row + 1;
    tile = !last ? tile : tile + 1 == call.head_tiles ? 0 : tile + 1;
  }
}

}  // namespace attnc
