#pragma once
// top_experts: y[row, j] = the channel of the j-th largest of x[row, :], j < k; of equal ones the lowest channel comes first.
//
// Shapes   x [rows, tiles*L] in (tile, row) order, of which `channels` count; y [rows, L], lanes from k on are 0.
// Types    XT, YT signed integers of 16 bits.
// Method   k rounds over all tiles, each of which finds the largest of those behind the last one found: smaller, or equal and further on.
// Speed    a vector per cycle in each round; a round takes SETTLE cycles per tile at least, after which what a row found can be read.

#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct TopExpertsCall {
  int rows, tiles, channels, k;
  int vectors, trips;  // rows * tiles; k * tiles * max(rows, PICK_SETTLE)
};

static constexpr int PICK_SETTLE = 16;  // the pragma repeats the number

// A channel and what it holds; none is found yet where the channel is negative.
template <class XT> struct Pick {
  XT value;
  Int<16> channel;
};

// The one that comes first in order of size; `a` is of lower channels.
template <class XT> Pick<XT> first_of(const Pick<XT>& a, const Pick<XT>& b) {
#pragma HLS INLINE
  return b.channel < 0 || (a.channel >= 0 && a.value >= b.value) ? a : b;
}

template <class XT, class YT, int L, int TILES_MAX, int ROWS_MAX>
void top_experts(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, TopExpertsCall call) {
  static_assert(width<YT>::value >= 16, "top_experts: outputs have at least 16 bits");
  static Vec<XT, L> choices[TILES_MAX * ROWS_MAX];
#pragma HLS AGGREGATE variable = choices
  Pick<XT> best[ROWS_MAX], last[ROWS_MAX];
  Vec<YT, L> picks[ROWS_MAX];
#pragma HLS AGGREGATE variable = picks
  ATTNC_LOOP(TAKE_CHOICES)
TAKE_CHOICES:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(TAKE_CHOICES)
    choices[i] = x.read();
  }
  int round = 0, tile = 0, row = 0, at = 0;
  ATTNC_LOOP(PICK)
PICK:
  for (int i = 0; i < call.trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 16 max = 65536
#pragma HLS DEPENDENCE variable = best inter RAW distance = 16 true
#pragma HLS DEPENDENCE variable = last inter RAW distance = 16 true
#pragma HLS DEPENDENCE variable = picks inter RAW distance = 16 true
    ATTNC_TICK(PICK)
    if (row < call.rows) {
      const Vec<XT, L> vec = choices[at];
      const Pick<XT> before = last[row];
      Pick<XT> found[L];
#pragma HLS ARRAY_PARTITION variable = found complete
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        const Int<16> channel = Int<16>(tile * L + l);
        const bool behind = round == 0 || vec.v[l] < before.value || (vec.v[l] == before.value && channel > before.channel);
        found[l].value = vec.v[l];
        found[l].channel = behind && tile * L + l < call.channels ? channel : Int<16>(-1);
      }
      for (int span = 1; span < L; span *= 2) {
#pragma HLS UNROLL
        for (int l = 0; l + span < L; l += 2 * span) {
#pragma HLS UNROLL
          found[l] = first_of(found[l], found[l + span]);
        }
      }
      const Pick<XT> now = tile == 0 ? found[0] : first_of(best[row], found[0]);
      best[row] = now;
      if (tile + 1 == call.tiles) {
        last[row] = now;
        Vec<YT, L> all = picks[row];
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          all.v[l] = l == round ? YT(now.channel) : round == 0 ? YT(0) : all.v[l];
        }
        picks[row] = all;
      }
      ++at;
    }
    const bool ends = row + 1 >= call.rows && row + 1 >= PICK_SETTLE, whole = ends && tile + 1 == call.tiles;
    row = ends ? 0 : row + 1;
    tile = whole ? 0 : ends ? tile + 1 : tile;
    at = whole ? 0 : at;
    round = whole ? round + 1 : round;
  }
  ATTNC_LOOP(GIVE_PICKS)
GIVE_PICKS:
  for (int i = 0; i < call.rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(GIVE_PICKS)
    y.write(picks[i]);
  }
}

}  // namespace attnc
