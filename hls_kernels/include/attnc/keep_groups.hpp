#pragma once
// keep_groups: y[row, c] = clamp(x[row, c] * multiplier / 2**shift), rounded half up, where the channel's group is kept, else 0.
//
// Shapes   x, y [rows, tiles*L] in (tile, row) order; of x `channels` count, in `groups` of `size` that follow each other.
// Types    XT, YT signed integers of 16 bits.
// Method   a group is worth its largest channel, or (`best` 2) the sum of its two largest; a group is kept if fewer than `kept` others are
//          worth more, or as much with a lower number.
// Speed    a channel per cycle, then a group per cycle, then a vector per cycle.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct KeepGroupsCall {
  int rows, tiles, channels, groups, size, kept, best, multiplier, shift, low, high;
  int vectors, steps, rankings;      // rows * tiles; rows * channels; rows * groups
  int lane_groups, lane_channels;    // L / size; L % size
};

template <class XT, class YT, int L, int TILES_MAX, int ROWS_MAX, int GROUPS_MAX>
void keep_groups(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, KeepGroupsCall call) {
  static_assert(width<YT>::value >= 16, "keep_groups: outputs have at least 16 bits");
  typedef Int<18> worth_t;
  static Vec<XT, L> choices[TILES_MAX * ROWS_MAX];
  Vec<worth_t, GROUPS_MAX> worth[ROWS_MAX];
  Vec<UInt<1>, GROUPS_MAX> kept[ROWS_MAX];
  UInt<16> group_of[L], within_of[L];
#pragma HLS AGGREGATE variable = choices
#pragma HLS AGGREGATE variable = worth
#pragma HLS AGGREGATE variable = kept
#pragma HLS ARRAY_PARTITION variable = group_of complete
#pragma HLS ARRAY_PARTITION variable = within_of complete
  ATTNC_LOOP(TAKE_CHOICES)
TAKE_CHOICES:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(TAKE_CHOICES)
    choices[i] = x.read();
  }
  int group = 0, within = 0;
  ATTNC_LOOP(PLACE_LANES)
PLACE_LANES:
  for (int l = 0; l < L; ++l) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = L max = L
    ATTNC_TICK(PLACE_LANES)
    group_of[l] = UInt<16>(group);
    within_of[l] = UInt<16>(within);
    const bool ends = within + 1 == call.size;
    group = ends ? group + 1 : group;
    within = ends ? 0 : within + 1;
  }
  int row = 0, channel = 0, lane = 0, at = 0;
  XT first = 0, second = 0;
  Vec<worth_t, GROUPS_MAX> all = Vec<worth_t, GROUPS_MAX>();
  group = 0;
  within = 0;
  ATTNC_LOOP(FIND_WORTH)
FIND_WORTH:
  for (int i = 0; i < call.steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX * L
    ATTNC_TICK(FIND_WORTH)
    const XT value = lane_of<1>(choices[at], lane, 0);
    const bool opens = within == 0, larger = opens || value > first;
    second = opens ? value : larger ? first : within == 1 || value > second ? value : second;
    first = larger ? value : first;
    const worth_t sum = worth_t(call.best == 2 ? int(first) + int(second) : int(first));
    for (int g = 0; g < GROUPS_MAX; ++g) {
#pragma HLS UNROLL
      all.v[g] = g == group ? sum : all.v[g];
    }
    const bool ends = channel + 1 == call.channels, next = within + 1 == call.size, wraps = lane + 1 == L;
    if (ends) worth[row] = all;
    at = ends ? row + 1 : wraps ? at + call.rows : at;
    row = ends ? row + 1 : row;
    channel = ends ? 0 : channel + 1;
    lane = ends || wraps ? 0 : lane + 1;
    group = ends ? 0 : next ? group + 1 : group;
    within = ends || next ? 0 : within + 1;
  }
  Vec<UInt<1>, GROUPS_MAX> marks = Vec<UInt<1>, GROUPS_MAX>();
  row = 0;
  group = 0;
  ATTNC_LOOP(RANK_GROUPS)
RANK_GROUPS:
  for (int i = 0; i < call.rankings; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX * GROUPS_MAX
    ATTNC_TICK(RANK_GROUPS)
    const Vec<worth_t, GROUPS_MAX> of_row = worth[row];
    const worth_t own = lane_of<1>(of_row, group, 0);
    int before = 0;
    for (int g = 0; g < GROUPS_MAX; ++g) {
#pragma HLS UNROLL
      before += g < call.groups && (of_row.v[g] > own || (of_row.v[g] == own && g < group)) ? 1 : 0;
    }
    for (int g = 0; g < GROUPS_MAX; ++g) {
#pragma HLS UNROLL
      marks.v[g] = g == group ? UInt<1>(before < call.kept) : marks.v[g];
    }
    const bool ends = group + 1 == call.groups;
    if (ends) kept[row] = marks;
    row = ends ? row + 1 : row;
    group = ends ? 0 : group + 1;
  }
  row = 0;
  ATTNC_LOOP(GIVE_KEPT)
GIVE_KEPT:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(GIVE_KEPT)
    const Vec<XT, L> in = choices[i];
    const Vec<UInt<1>, GROUPS_MAX> open = kept[row];
    const bool ends = row + 1 == call.rows;
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      UInt<1> stays = 0;
      for (int g = 0; g < GROUPS_MAX; ++g) {
#pragma HLS UNROLL
        if (int(group_of[l]) == g) stays = open.v[g];
      }
      const int scaled = requantize<XT>(in.v[l], multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high);
      out.v[l] = stays ? YT(scaled) : YT(0);
      const int further = int(within_of[l]) + call.lane_channels;
      const bool over = further >= call.size;
      if (ends) {
        group_of[l] = UInt<16>(int(group_of[l]) + call.lane_groups + (over ? 1 : 0));
        within_of[l] = UInt<16>(over ? further - call.size : further);
      }
    }
    y.write(out);
    row = ends ? 0 : row + 1;
  }
}

}  // namespace attnc
