#pragma once
// What the attention kernels share: which keys a query may look at, one score, reciprocals, and the outputs.
//
// Scores   base 2, see exponential.hpp; SCORE_EXCLUDED marks a key that is left out.
// Calls    both kernels' calls have these names; what they share takes either.
// Masks    query i of a call stands at `position` + i among the keys of the call and may look at `before` keys before that position and
//          `after` keys after it. Causal attention has after = 0. Loops over keys run from the first to the last key that any of the P
//          queries of a block may look at, so masked work is done only inside the blocks that the edges of the mask cross.
// Order    causal queries go from the first to the last. Backwards (TeLLMe) the same pairs would be computed and the same keys loaded: a
//          call loads what its own queries may look at, and the largest call, which sizes the buffers, is the same one.

#include "attnc/dsp_pair.hpp"
#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/softcap.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

static constexpr int BIAS_EXCLUDED = -32768;
static constexpr int BIAS_UNIFORM = -32767;  // in place of a score that does not count
typedef Int<SCORE_BITS + 2> attention_score_t;
static constexpr int KEYS_LIMIT = 1 << 18;   // an extent that reaches beyond any key
static constexpr int SCORE_EXCLUDED = -(1 << (SCORE_BITS + 1));  // below every score, so it never is the maximum

struct KeyRange {
  int first, stop;
};

// What a block of queries reaches by position, whether such keys exist or not.
struct KeyReach {
  int block, first, stop;
};

template <int P, class Call> KeyReach key_reach(int block, const Call& call) {
#pragma HLS INLINE
  const int end = (block + 1) * P < call.rows ? (block + 1) * P : call.rows;
  KeyReach reach;
  reach.block = block;
  reach.first = call.position + block * P - call.before;
  reach.stop = call.position + end + call.after;
  return reach;
}

// That of the block behind it, or of the first one: an addition and a choice for each number; the rest is the same all through a call.
template <int P, class Call> KeyReach reach_next(const KeyReach& reach, const Call& call) {
#pragma HLS INLINE
  const KeyReach start = key_reach<P>(0, call);
  const bool ends = reach.block * P >= call.rows - P;
  const int limit = call.position + call.rows + call.after;
  KeyReach next;
  next.block = ends ? start.block : reach.block + 1;
  next.first = ends ? start.first : reach.first + P;
  next.stop = ends ? start.stop : reach.stop + P < limit ? reach.stop + P : limit;
  return next;
}

// The keys of it that there are. At least one, so that every block has a maximum and a sum; it is then excluded query by query. An engine
// whose calls leave no key out (MASKED = 0) has no hardware for it.
template <int MASKED, class Call> KeyRange keys_within(const KeyReach& reach, const Call& call) {
#pragma HLS INLINE
  KeyRange range;
  range.first = MASKED == 0 || reach.first < 0 ? 0 : reach.first < call.keys ? reach.first : call.keys - 1;
  range.stop = MASKED == 0 || reach.stop > call.keys ? call.keys : reach.stop > range.first ? reach.stop : range.first + 1;
  return range;
}

// Goes through the keys of one block of queries after the other and starts again after the last. The range that comes next is known one
// block ahead, and what the block behind it reaches two, so that a step of a pipelined loop has few operations one behind the other.
struct KeyCursor {
  int key, block, next_block;
  KeyRange range, next;
  KeyReach ahead;
};

template <int P, int MASKED, class Call> KeyCursor key_start(const Call& call) {
#pragma HLS INLINE
  const KeyReach first = key_reach<P>(0, call), second = reach_next<P>(first, call);
  KeyCursor cursor;
  cursor.block = first.block;
  cursor.range = keys_within<MASKED>(first, call);
  cursor.next_block = second.block;
  cursor.next = keys_within<MASKED>(second, call);
  cursor.ahead = reach_next<P>(second, call);
  cursor.key = cursor.range.first;
  return cursor;
}

template <int P, int MASKED, class Call> KeyCursor key_next(KeyCursor cursor, const Call& call) {
#pragma HLS INLINE
  if (cursor.key + 1 < cursor.range.stop) {
    ++cursor.key;
  } else {
    cursor.key = cursor.next.first;
    cursor.block = cursor.next_block;
    cursor.range = cursor.next;
    cursor.next_block = cursor.ahead.block;
    cursor.next = keys_within<MASKED>(cursor.ahead, call);
    cursor.ahead = reach_next<P>(cursor.ahead, call);
  }
  return cursor;
}

// Rows of a block that leave: all P, or R where a call has a single one.
template <int P, int R, class Call> int leaving_rows(const Call& call) {
#pragma HLS INLINE
  return R < P && call.rows == 1 ? R : P;
}

// sums[p] += q[p] . k for P queries: of bytes, two queries share k in one multiplier (dsp_pair.hpp); a query alone, or one of 16 bits, has
// it for itself.
template <class ScoreT, class XT, int L, int P, bool PAIRED> struct QueryProducts {
  static void add(const Vec<XT, L> q[P], const Vec<XT, L>& k, ScoreT sums[P]) {
#pragma HLS INLINE
    for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        sums[p] += ScoreT(q[p].v[l] * k.v[l]);
      }
    }
  }
};

template <class ScoreT, class XT, int L, int P> struct QueryProducts<ScoreT, XT, L, P, true> {
  static void add(const Vec<XT, L> q[P], const Vec<XT, L>& k, ScoreT sums[P]) {
#pragma HLS INLINE
    for (int p = 0; p < P; p += 2) {
#pragma HLS UNROLL
      dot_pair<ScoreT, XT, XT, L, 128>(k, q[p], q[p + 1], sums[p], sums[p + 1]);
    }
  }
};

template <class ScoreT, class XT, int L, int P> void add_products(const Vec<XT, L> q[P], const Vec<XT, L>& k, ScoreT sums[P]) {
#pragma HLS INLINE
  static_assert(width<XT>::value <= 16, "attention: queries and keys have at most 16 bits");
  QueryProducts<ScoreT, XT, L, P, (P > 1 && width<XT>::value <= 8)>::add(q, k, sums);
}

// From the accumulator to the log2 domain: one requantize, or two around the table of an engine that caps its scores.
template <class ScoreT, class Cap, bool CAPPED> struct AttentionCap {
  template <class Call> static Int<32> apply(ScoreT acc, const Call& call) {
#pragma HLS INLINE
    const multiplier_t multiplier = multiplier_t(call.score_multiplier);
    const Int<32> u = requantize<ScoreT>(acc, multiplier, shift_t(call.score_shift), -SOFTCAP_LIMIT, SOFTCAP_LIMIT);
    return softcap<Cap>(u, multiplier_t(call.cap_multiplier), shift_t(call.cap_shift));
  }
};

template <class ScoreT, class Cap> struct AttentionCap<ScoreT, Cap, false> {
  template <class Call> static Int<32> apply(ScoreT acc, const Call& call) {
#pragma HLS INLINE
    return requantize<ScoreT>(acc, multiplier_t(call.score_multiplier), shift_t(call.score_shift), -SCORE_LIMIT, SCORE_LIMIT);
  }
};

// The score in base 2 of an accumulated product: rescaled, capped where the ROM has more than one entry, biased; or excluded, or 0.
template <class ScoreT, class BiasT, class Cap, class Call>
attention_score_t attention_score(ScoreT acc, BiasT bias, bool allowed, const Call& call) {
#pragma HLS INLINE
  const bool biased = call.bias_heads > 0;
  const attention_score_t score = attention_score_t(AttentionCap<ScoreT, Cap, (Cap::size > 1)>::apply(acc, call));
  // Shifted as unsigned, since C++ leaves the shift of a negative number undefined; the result fits.
  const attention_score_t shifted = attention_score_t(UInt<SCORE_BITS + 2>(bias) << call.bias_shift);
  const bool excluded = !allowed || (biased && bias == BIAS_EXCLUDED), uniform = biased && bias == BIAS_UNIFORM;
  const attention_score_t sum = biased ? attention_score_t(score + shifted) : score;
  return excluded ? attention_score_t(SCORE_EXCLUDED) : uniform ? attention_score_t(0) : sum;
}

// One factor per query: reciprocal of its sum times the scale of the output. Sums come in vectors of Q and are at least 2^(15 - SPARE),
// or 0. A factor per cycle, or with FAST_DIVIDE = 0 Q factors in QUOTIENT_BITS cycles, from as many subtracters in place of a pipelined
// divider. Of a block with a single row R of the P have one. The pipeline ends with each block: the sums of the next one come only when the
// outputs of this one leave, which wait for its factors, so a pipeline that stalls must not keep any inside.
template <class SumT, int SPARE, int P, int Q, int R, int FAST_DIVIDE, class Call>
void attention_reciprocal(hls::stream<Vec<SumT, Q>>& sums, hls::stream<SoftmaxScale>& scales, Call call) {
  typedef UInt<width<SumT>::value + SPARE> spare_t;
  static const int ALL = FAST_DIVIDE != 0 ? P : P / Q * QUOTIENT_BITS + Q, FEW = FAST_DIVIDE != 0 ? R : R / Q * QUOTIENT_BITS + Q;
  static_assert(Q <= QUOTIENT_BITS, "attention_reciprocal: the factors of Q queries leave while those of the next ones are made");
  const multiplier_t multiplier = multiplier_t(call.output_multiplier);
  const shift_t shift = shift_t(call.output_shift);
  const int rows = leaving_rows<P, R>(call), trips = R < P && rows == R ? FEW : ALL;
  Vec<SumT, Q> sum;
#pragma HLS ARRAY_PARTITION variable = sum.v complete
  SoftmaxQuotient division[Q];
#pragma HLS ARRAY_PARTITION variable = division complete
  SerialDivision state[Q];
#pragma HLS ARRAY_PARTITION variable = state complete
  SoftmaxScale made[Q];
#pragma HLS ARRAY_PARTITION variable = made complete
RECIPROCAL_BLOCKS:
  for (int block = 0; block < call.blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
    int j = 0, step = 0, left = rows, ready = 0;
    ATTNC_LOOP(RECIPROCAL)
  RECIPROCAL:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = FEW max = ALL
      ATTNC_TICK(RECIPROCAL)
      if (FAST_DIVIDE != 0) {
        if (j == 0) sum = sums.read();
        SoftmaxScale scale = softmax_scale<spare_t>(spare_t(spare_t(sum.v[j]) << SPARE), multiplier, shift);
        scale.shift = shift_t(scale.shift - SPARE);
        scales.write(scale);
        j = j + 1 == Q ? 0 : j + 1;
      } else {
        if (ready > 0) {
          scales.write(made[Q - ready]);
          --ready;
        }
        if (left > 0) {
          if (step == 0) sum = sums.read();
          for (int q = 0; q < Q; ++q) {
#pragma HLS UNROLL
            if (step == 0) {
              division[q] = softmax_quotient<spare_t>(spare_t(spare_t(sum.v[q]) << SPARE), multiplier, shift);
              state[q] = serial_start(division[q]);
            }
            state[q] = serial_step(state[q], division[q].mantissa);
            if (step + 1 == QUOTIENT_BITS) {
              made[q].multiplier = division[q].mantissa == 0 ? multiplier_t(0) : multiplier_t(state[q].rest);
              made[q].shift = shift_t(division[q].shift - SPARE);
            }
          }
          ++step;
          if (step == QUOTIENT_BITS) {
            step = 0;
            ready = Q;
            left -= Q;
          }
        }
      }
    }
  }
}

// Outputs of a head: rescaled as they come (block after block, in a block tile after tile, in a tile query after query), written in
// (tile, row) order while those of the next head come.
template <class AccT, class YT, int VALUE_TILES_MAX, int ROWS_MAX, int L, int P, int R, class Call>
void attention_normalise(hls::stream<Vec<AccT, L>>& weighted, hls::stream<SoftmaxScale>& scales, hls::stream<Vec<YT, L>>& y, Call call) {
  static_assert(width<YT>::value >= 16, "attention: outputs have at least 16 bits");
  static Vec<YT, L> y_buffer[2][VALUE_TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = y_buffer
#ifdef ATTNC_ATTENTION_Y_BUFFER
  ATTNC_BIND(y_buffer, ATTNC_ATTENTION_Y_BUFFER)
#endif
  SoftmaxScale scales_held[P];
#pragma HLS ARRAY_PARTITION variable = scales_held complete
  const int leaving = leaving_rows<P, R>(call);

  // Head `heads` only writes the last outputs.
NORMALISE_HEADS:
  for (int head = 0; head <= call.heads; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 17
    const int reads = head < call.heads ? call.sums : 0, writes = head > 0 ? call.outputs : 0;
    const int trips = max_of(reads, writes);
    const int fill = head & 1, use = 1 - fill;
    int tile = 0, p = 0, first = 0, out_tile = 0, out_row = 0;
    ATTNC_LOOP(NORMALISE)
  NORMALISE:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = R max = ROWS_MAX * VALUE_TILES_MAX
#pragma HLS DEPENDENCE variable = y_buffer inter false
      ATTNC_TICK(NORMALISE)
      if (i < writes) {
        y.write(y_buffer[use][out_tile][out_row]);
        out_tile = out_row + 1 == call.rows ? out_tile + 1 : out_tile;
        out_row = out_row + 1 == call.rows ? 0 : out_row + 1;
      }
      if (i < reads) {
        const Vec<AccT, L> acc = weighted.read();
        if (tile == 0) scales_held[p] = scales.read();
        const SoftmaxScale scale = scales_held[p];
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          out.v[l] = YT(requantize<AccT>(acc.v[l], scale.multiplier, scale.shift, call.low, call.high));
        }
        if (first + p < call.rows) y_buffer[fill][tile][first + p] = out;
        p = p + 1 == leaving ? 0 : p + 1;
        tile = p == 0 ? tile + 1 : tile;
        first = tile == call.v_tiles ? first + leaving : first;
        tile = tile == call.v_tiles ? 0 : tile;
      }
    }
  }
}

}  // namespace attnc
