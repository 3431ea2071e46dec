#pragma once
// expert_order: where each (token, expert) pair lies when all are sorted by expert, pairs of one expert by token; or the queue of experts that
// have any.
//
// Shapes   x [rows, L]: lanes below k hold the experts of a token. queue = 0: y [rows, L], the place of each pair in lanes below k. queue = 1:
//          y [entries, L], an expert that has pairs, the place of its first one and their number in lanes 0, 1, 2; behind the last zeros.
// Types    XT, YT signed integers of 16 bits.
// Method   a counting sort.
// Speed    a pair per cycle, twice, and an expert per cycle.

#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct ExpertOrderCall {
  int rows, k, experts, queue, entries;
  int pairs, leaving;  // rows * k; iterations in which y leaves: entries, or pairs
};

template <class XT, class YT, int L, int ROWS_MAX, int EXPERTS_MAX>
void expert_order(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, ExpertOrderCall call) {
  static_assert(width<YT>::value >= 16 && L >= 4, "expert_order: outputs have at least 16 bits, of 4 lanes at least");
  typedef UInt<15> place_t;
  Vec<XT, L> chosen[ROWS_MAX];
#pragma HLS AGGREGATE variable = chosen
  Vec<YT, L> queue[EXPERTS_MAX];
#pragma HLS AGGREGATE variable = queue
  place_t counts[EXPERTS_MAX], next[EXPERTS_MAX];
#pragma HLS ARRAY_PARTITION variable = counts complete
#pragma HLS ARRAY_PARTITION variable = next complete
  for (int e = 0; e < EXPERTS_MAX; ++e) {
#pragma HLS UNROLL
    counts[e] = 0;
  }
  Vec<XT, L> one = Vec<XT, L>();
  int row = 0, j = 0;
  ATTNC_LOOP(COUNT_PAIRS)
COUNT_PAIRS:
  for (int i = 0; i < call.pairs; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(COUNT_PAIRS)
    if (j == 0) {
      one = x.read();
      chosen[row] = one;
    }
    const int expert = int(lane_of<1>(one, j, 0));
    counts[expert] = place_t(counts[expert] + 1);
    row = j + 1 == call.k ? row + 1 : row;
    j = j + 1 == call.k ? 0 : j + 1;
  }
  place_t first = 0;
  int entries = 0;
  ATTNC_LOOP(FIRST_PLACES)
FIRST_PLACES:
  for (int e = 0; e < call.experts; ++e) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = EXPERTS_MAX
    ATTNC_TICK(FIRST_PLACES)
    const place_t count = counts[e];
    next[e] = first;
    if (count > 0) {
      Vec<YT, L> entry = Vec<YT, L>();
      entry.v[0] = YT(e);
      entry.v[1] = YT(first);
      entry.v[2] = YT(count);
      queue[entries] = entry;
      ++entries;
    }
    first = place_t(first + count);
  }
  Vec<YT, L> out = Vec<YT, L>();
  row = 0;
  j = 0;
  ATTNC_LOOP(GIVE_ORDER)
GIVE_ORDER:
  for (int i = 0; i < call.leaving; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(GIVE_ORDER)
    if (call.queue != 0) {
      y.write(i < entries ? queue[i] : Vec<YT, L>());
    } else {
      const int expert = int(chosen[row].v[j]);
      const place_t place = next[expert];
      next[expert] = place_t(place + 1);
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        out.v[l] = l == j ? YT(place) : out.v[l];
      }
      if (j + 1 == call.k) y.write(out);
      row = j + 1 == call.k ? row + 1 : row;
      j = j + 1 == call.k ? 0 : j + 1;
    }
  }
}

}  // namespace attnc
