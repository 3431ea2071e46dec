#pragma once
// gather_channels: y[row, c] = requantize(x[row, index[row, c]]): every element of a row comes from any channel of that row.
//
// Shapes   x [rows, tiles*L], y [rows, out_tiles*L] in (tile, row) order.
// Indices  a stream of words: for each vector of y one with the low bytes of L indices and one with the high bytes, unsigned; with
//          `shared` those of a tile come once, for all of its rows. GATHER_NOTHING gives 0, as padding lanes do.
// Types    XT, YT signed integers; YT holds [low, high].
// Rounding requantize: half up, then saturation to [low, high].
// Speed    rows * tiles cycles to take x in (II = 1), into READS copies that are read at the same time; then 2 + L / READS for a vector.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

static const int GATHER_NOTHING = 65535;

struct GatherChannelsCall {
  int rows, tiles, out_tiles, shared, multiplier, shift, low, high;
  int vectors, slots;  // tiles * rows; out_tiles * rows * SLOTS
};

template <class XT, class YT, int L, int READS, int TILES_MAX, int ROWS_MAX>
void gather_channels(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, GatherChannelsCall call) {
  static_assert(width<YT>::value >= 16, "gather_channels: outputs have at least 16 bits");
  static_assert(L % READS == 0, "gather_channels: READS must divide L");
  static_assert(TILES_MAX * L < GATHER_NOTHING, "gather_channels: an index has 16 bits");
  static constexpr int SLOTS = 2 + L / READS;
  static Vec<XT, L> buffer[READS][TILES_MAX][ROWS_MAX];
#pragma HLS ARRAY_PARTITION variable = buffer dim = 1 complete
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_GATHER_CHANNELS_BUFFER
  ATTNC_BIND(buffer, ATTNC_GATHER_CHANNELS_BUFFER)
#endif
  Vec<UInt<16>, L> index;
  Vec<YT, L> out;

  int tile = 0, row = 0;
  ATTNC_LOOP(GATHER_READ)
GATHER_READ:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(GATHER_READ)
    const Vec<XT, L> in = x.read();
    for (int k = 0; k < READS; ++k) {
#pragma HLS UNROLL
      buffer[k][tile][row] = in;
    }
    tile = row + 1 == call.rows ? tile + 1 : tile;
    row = row + 1 == call.rows ? 0 : row + 1;
  }

  int slot = 0;
  row = 0;
  ATTNC_LOOP(GATHER_CHANNELS)
GATHER_CHANNELS:
  for (int i = 0; i < call.slots; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = SLOTS max = 64 * ROWS_MAX
    ATTNC_TICK(GATHER_CHANNELS)
    if (slot < 2) {
      if (row == 0 || call.shared == 0) {
        const Word<L> word = w.read();
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          index.v[l] = slot == 0 ? UInt<16>(word.v[l]) : UInt<16>(index.v[l] | UInt<16>(UInt<16>(word.v[l]) << 8));
        }
      }
    } else {
      Vec<YT, READS> part;
      for (int k = 0; k < READS; ++k) {
#pragma HLS UNROLL
        const int from = int(lane_of<READS>(index, (slot - 2) * READS, k));
        const bool some = from != GATHER_NOTHING;
        const Vec<XT, L> read = buffer[k][some ? from / L : 0][row];
        const XT value = some ? lane_of<1>(read, from % L, 0) : XT(0);
        part.v[k] = YT(requantize<XT>(value, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high));
      }
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        if (l / READS == slot - 2) out.v[l] = part.v[l % READS];
      }
      if (slot + 1 == SLOTS) y.write(out);
    }
    const bool ends = slot + 1 == SLOTS;
    row = !ends ? row : row + 1 == call.rows ? 0 : row + 1;
    slot = ends ? 0 : slot + 1;
  }
}

}  // namespace attnc
