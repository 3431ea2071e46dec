#pragma once
// unary_table: y = table[(x + 128) modulo 256] for bytes x, the table from the weight memory.
//
// Shapes   x, y [rows, tiles*L], streams in (tile, row) order; the lanes of the last tile beyond `channels` give 0, whatever f(0) is.
// Types    XT, YT signed integers; x is in [-128 - z, 127 - z] with a zero point z.
// Weights  a stream of 512 / L words: 256 values s16, little endian, the first for the x that is -128 modulo 256.
// Rounding none: done when the table was made.
// Speed    256 cycles to fill a copy of the table per lane, then L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct UnaryTableCall {
  int rows, tiles, channels;
  int vectors;  // rows * tiles
};

template <class XT, class YT, int L>
void unary_table(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, UnaryTableCall call) {
  static_assert(width<YT>::value >= 16, "unary_table: outputs have at least 16 bits");
  static_assert(L >= 2 && L <= 256, "unary_table: a word must hold a whole value, and the table whole words");
  static const int ENTRIES = 256;
  static Int<16> table[L][ENTRIES];
#pragma HLS ARRAY_PARTITION variable = table dim = 1 complete
#pragma HLS BIND_STORAGE variable = table type = ram_1p impl = lutram
  Word<L> word;
#pragma HLS ARRAY_PARTITION variable = word.v complete
  ATTNC_LOOP(FILL_TABLE)
FILL_TABLE:
  for (int i = 0; i < ENTRIES; ++i) {
#pragma HLS PIPELINE II = 1
    ATTNC_TICK(FILL_TABLE)
    const int at = 2 * i % L;
    if (at == 0) word = w.read();
    const Int<16> entry = Int<16>(UInt<16>((UInt<16>(word.v[at + 1]) << 8) | word.v[at]));
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      table[l][i] = entry;
    }
  }
  int row = 0, first = 0;
  ATTNC_LOOP(UNARY_TABLE)
UNARY_TABLE:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(UNARY_TABLE)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const Int<16> value = table[l][(int(in.v[l]) + 128) & (ENTRIES - 1)];
      out.v[l] = first + l < call.channels ? YT(value) : YT(0);
    }
    y.write(out);
    const bool last = row + 1 == call.rows;
    row = last ? 0 : row + 1;
    first = last ? first + L : first;
  }
}

}  // namespace attnc
