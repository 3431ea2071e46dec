#pragma once
// attention: y = softmax(scale * q . k + bias) . v, one shared engine for every head of the model.
//
// Shapes   a call serves `rows` queries of each of heads = kv_heads * heads_per_kv heads (groups count as heads). Streams:
//          q     per head: qk_tiles * rows vectors, (tile, row) order
//          k, v  per kv head: qk_tiles * key_steps and v_tiles * key_steps times S vectors, (tile, step) order: step i has the keys that
//                `key_of` says, those of N parts that come side by side. With S = 1 a key is a step
//          bias  (vectors) for no head, the first or every one (bias_heads is 0, 1 or more): ceil(keys / L) * bias_rows vectors, (key tile,
//                row) order; one row serves all queries when bias_rows is 1; or words with a bias as `channels` of queries and keys
//                for every head, attention_channels.hpp
//          `position`, `before` and `after` limit nothing where MASKED = 0; with MASKED = 2 a query looks at the `window` keys before
//          it and no further back, whatever the range of its block. Keys may lie in a `ring` of so many rows (0: they do not): those that
//          were last written behind the place of a query are from the turn before.
//          With MASKED = 3 the keys behind the first `prefix` are those of `branches`, a power of two, in turn: query i looks at those of
//          branch `position` + i alone, and at the prefix.
//          `scored` is the number of keys of a head's blocks of P queries, summed: what keys_within gives (attention_common.hpp), or
//          of steps where a query is alone; `paced` the same with at least as many for each block as sums leave
//          y     per head: v_tiles * rows vectors, (tile, row) order
// Types    XT (queries and keys) and VT (values) signed, of 8 or 16 bits; ScoreT holds q . k, SumT a sum of
//          `keys` probabilities, AccT the weighted sum of values.
// Numbers  scores in base 2, see exponential.hpp, capped where Cap has more than one entry; bias in units of 2^bias_shift scores,
//          -32768 excludes a key, -32767 takes 0 in place of the score; masks see attention_common.hpp; a query without any allowed key
//          gives zeros. Two passes over a row of scores: the maximum is exact, nothing is rescaled.
// Rounding requantize (half up) to scores and to outputs, saturation to [low, high].
// Speed    P*L multiply-adds per cycle (II = 1) for q . k and as many for p . v, at the same time on successive blocks of P queries:
//          keys * max(qk_tiles, v_tiles) cycles per block, of the keys that the block may look at (and P * v_tiles at least, since its
//          sums leave a vector per cycle). Queries, keys and values of the next head are loaded, and outputs of the last one sent,
//          meanwhile. Keys, values and queries are each read once per call. From score to probability Q queries go per cycle, P / Q
//          groups of Q after each other for every key; no call has fewer than P / Q qk_tiles, so that is no slower. Q divisions take
//          QUOTIENT_BITS cycles with FAST_DIVIDE = 0, for engines whose blocks take longer than P / Q of these.
// Alone    With S > 1 and one row, lane s < S of the P has the query too, and key s of a step: S keys per cycle. The other lanes have none.
//          From scores to sums of probabilities a lane goes on as if it had a query of its own; then the largest maximum is that of all,
//          and both sums are those of all lanes, exactly: they are sums of integers. Q rows leave a block then, the first of them is the
//          query's.
// Source   two-pass cascade with a row buffer as in FuseMax; resident queries past which the keys stream as in Edge-MoE.

#include "attnc/attention_channels.hpp"
#include "attnc/attention_common.hpp"
#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct AttentionCall {
  int heads, kv_heads, heads_per_kv, rows, keys, scored, paced, qk_tiles, v_tiles, position, before, after;
  int window, ring, prefix, branches, key_steps;
  int score_multiplier, score_shift, cap_multiplier, cap_shift, bias_heads, bias_rows, bias_shift, bias_channels;
  int output_multiplier, output_shift, low, high;
  // Counts that follow. Of a head: vectors of biases or factors of queries, factors of keys, biases; vectors of queries and of keys, scores
  // in tiles; vectors of values, products with them, the same in the cycles that they take; sums, outputs. Of all: scores, blocks of queries.
  int bias_words, key_factor_words, bias_steps, q_words, k_words, score_steps, v_words, products, paced_products, sums, outputs;
  int all_scored, blocks;
};

// Whether the lanes of a call share its only query.
template <int S> bool is_alone(const AttentionCall& call) {
#pragma HLS INLINE
  return S > 1 && call.rows == 1;
}

// The call whose keys the loops of a block go through: those of a query alone are steps, and there all of them.
template <int S> AttentionCall walked(const AttentionCall& call) {
#pragma HLS INLINE
  AttentionCall steps = call;
  if (is_alone<S>(call)) {
    steps.keys = call.key_steps;
    steps.before = steps.after = KEYS_LIMIT;
  }
  return steps;
}

// The key of a lane in a step: parts of equal size, S / N keys of each, that follow each other there.
template <int S, int N> int key_of(int step, int lane, const AttentionCall& call) {
#pragma HLS INLINE
  static const int W = S / N;
  return (lane / W) * (call.key_steps * W) + step * W + lane % W;
}

// Where a key lies.
struct KeyPlace {
  int step, lane;
};

template <int S, int N> KeyPlace place_of(int key, const AttentionCall& call) {
#pragma HLS INLINE
  static_assert(N == 1 || N == 2, "attention: keys come in one part or in two");
  static const int W = S / N;
  const int part = call.key_steps * W;
  const bool second = N > 1 && key >= part;
  const int within = second ? key - part : key;
  KeyPlace place;
  place.step = within / W;
  place.lane = (second ? W : 0) + within % W;
  return place;
}

// Lane `lane` of S vectors.
template <class T, int L, int S> Vec<T, L> vector_of(const Vec<T, S * L>& vecs, int lane) {
#pragma HLS INLINE
  Vec<T, L> vec;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    vec.v[l] = vecs.v[l];
    for (int s = 1; s < S; ++s) {
#pragma HLS UNROLL
      if (s == lane) vec.v[l] = vecs.v[s * L + l];
    }
  }
  return vec;
}

// Biases of Q queries at a time, for each key group after group. The rows of the next head are loaded under way (BIAS_BUFFERS = 2, where
// heads differ); row r lies in bank r % Q, so that a group reads one word of each.
template <class BiasT, int KEYS_MAX, int BIAS_ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int BIAS_BUFFERS, int L, int P, int Q, int S,
          int N, int B, int MASKED>
void attention_bias(hls::stream<Vec<BiasT, L>>& bias, hls::stream<Vec<BiasT, B>>& biases, AttentionCall call) {
  static const int TILES_MAX = (KEYS_MAX + L - 1) / L, GROUPS = P / Q;
  static const int WORDS = BIAS_ROWS_MAX == 1 ? 1 : (BIAS_ROWS_MAX + P - 1) / P * GROUPS;
  static Vec<BiasT, L> buffer[BIAS_BUFFERS][B][TILES_MAX][WORDS];
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_ATTENTION_BIAS_BUFFER
  ATTNC_BIND(buffer, ATTNC_ATTENTION_BIAS_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = buffer dim = 2 complete
  const int load_words = call.bias_words, steps = call.bias_steps;
  const int sweeps = call.bias_heads > 0 ? call.heads : -1;
  const bool single = call.bias_rows == 1;

  // Head -1 only loads. A bias of one head is loaded once, for all.
BIAS_HEADS:
  for (int head = -1; head < sweeps; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 17
    const int loads = head < 0 || (call.bias_heads > 1 && head + 1 < call.heads) ? load_words : 0;
    const int emits = head < 0 ? 0 : steps;
    const int trips = max_of(loads, emits);
    const int fill = call.bias_heads > 1 ? (head + 1) & (BIAS_BUFFERS - 1) : 0, use = call.bias_heads > 1 ? head & (BIAS_BUFFERS - 1) : 0;
    int tile = 0, row = 0, group = 0;
    KeyCursor at = key_start<P, MASKED>(call);
    ATTNC_LOOP(EMIT_BIAS)
  EMIT_BIAS:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * WORDS
#pragma HLS DEPENDENCE variable = buffer inter false
      ATTNC_TICK(EMIT_BIAS)
      if (i < loads) {
        const Vec<BiasT, L> word = bias.read();
        for (int b = 0; b < B; ++b) {
#pragma HLS UNROLL
          if (single || b == row % B) buffer[fill][b][tile][row / B] = word;
        }
        tile = row + 1 == call.bias_rows ? tile + 1 : tile;
        row = row + 1 == call.bias_rows ? 0 : row + 1;
      }
      if (i < emits) {
        Vec<BiasT, B> out;
        for (int b = 0; b < B; ++b) {
#pragma HLS UNROLL
          const Vec<BiasT, L> word = buffer[use][b][at.key / L][single ? 0 : at.block * GROUPS + group];
#pragma HLS ARRAY_PARTITION variable = word.v complete
          out.v[b] = word.v[at.key % L];
        }
        biases.write(out);
        group = group + 1 == GROUPS ? 0 : group + 1;
        if (group == 0) at = key_next<P, MASKED>(at, call);
      }
    }
  }
}

// The same from factors of every head: rank-one terms summed over channels, PER_STEP at a time. Without channels the sum is how far a query
// is behind a key, negative.
template <class BiasT, int KEYS_MAX, int ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int, int L, int P, int Q, int S, int N, int B,
          int MASKED>
void attention_bias(hls::stream<Word<L>>& factors, hls::stream<Vec<BiasT, B>>& biases, AttentionCall call) {
  typedef BiasChannels<CHANNELS_MAX, PER_STEP, L> Channels;
  static const int GROUPS = P / Q, WORDS_MAX = (ROWS_MAX + P - 1) / P * GROUPS;
  static typename Channels::Factors q_factors[B][Channels::WORDS][WORDS_MAX];
#pragma HLS AGGREGATE variable = q_factors
#pragma HLS ARRAY_PARTITION variable = q_factors dim = 1 complete
  static typename Channels::Factors k_factors[Channels::WORDS][KEYS_MAX];
#pragma HLS AGGREGATE variable = k_factors
  const int words = (call.bias_channels + Channels::PER_WORD - 1) / Channels::PER_WORD;
  const bool distance = call.bias_channels == 0;
  const int channel_steps = distance ? 1 : (call.bias_channels + PER_STEP - 1) / PER_STEP;
  const int sweeps = call.bias_heads > 0 ? call.heads : 0;

BIAS_HEADS:
  for (int head = 0; head < sweeps; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    const BiasScale scale = bias_scale<L>(factors.read());
    int word = 0, row = 0;
    ATTNC_LOOP(LOAD_Q_FACTORS)
  LOAD_Q_FACTORS:
    for (int i = 0; i < call.bias_words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX * Channels::WORDS
      ATTNC_TICK(LOAD_Q_FACTORS)
      const typename Channels::Factors read = Channels::factors(factors.read());
      for (int b = 0; b < B; ++b) {
#pragma HLS UNROLL
        if (b == row % B) q_factors[b][word][row / B] = read;
      }
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
    word = 0;
    row = 0;
    ATTNC_LOOP(LOAD_K_FACTORS)
  LOAD_K_FACTORS:
    for (int i = 0; i < call.key_factor_words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * Channels::WORDS
      ATTNC_TICK(LOAD_K_FACTORS)
      k_factors[word][row] = Channels::factors(factors.read());
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
    const AttentionCall steps = walked<S>(call);
    KeyCursor at = key_start<P, MASKED>(steps);
    bias_sum_t<CHANNELS_MAX> acc[B];
#pragma HLS ARRAY_PARTITION variable = acc complete
    int step = 0, group = 0;
    ATTNC_LOOP(EMIT_BIAS)
  EMIT_BIAS:
    for (int i = 0; i < call.bias_steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * WORDS_MAX
      ATTNC_TICK(EMIT_BIAS)
      const int channel = step * PER_STEP;
      const typename Channels::Factors ks = k_factors[channel / Channels::PER_WORD][at.key];
      Vec<BiasT, B> out;
      for (int b = 0; b < B; ++b) {
#pragma HLS UNROLL
        const typename Channels::Factors qs = q_factors[b][channel / Channels::PER_WORD][at.block * GROUPS + group];
        const int lane = group * Q + b;
        const int query = is_alone<S>(call) ? 0 : at.block * P + lane, key = is_alone<S>(call) ? key_of<S, N>(at.key, lane, call) : at.key;
        const int back = call.position + query - key, age = back < 0 ? back + call.ring : back;
        const bias_sum_t<CHANNELS_MAX> sum = Channels::products(qs, ks, channel % Channels::PER_WORD);
        const bias_sum_t<CHANNELS_MAX> products = distance ? bias_sum_t<CHANNELS_MAX>(-age) : sum;
        acc[b] = step == 0 ? products : bias_sum_t<CHANNELS_MAX>(acc[b] + products);
        out.v[b] = BiasT(requantize<bias_sum_t<CHANNELS_MAX>>(acc[b], scale.multiplier, scale.shift, -BIAS_LIMIT, BIAS_LIMIT));
      }
      if (step + 1 == channel_steps) {
        biases.write(out);
        group = group + 1 == GROUPS ? 0 : group + 1;
        if (group == 0) at = key_next<P, MASKED>(at, steps);
      }
      step = step + 1 == channel_steps ? 0 : step + 1;
    }
  }
}

// Scores of P queries per key, or of a query and S keys: exact q . k, then for Q lanes at a time, while the next keys are multiplied,
// rescaled, plus bias.
template <class XT, class BiasT, class ScoreT, class Cap, int HEAD_TILES_MAX, int KEYS_MAX, int ROWS_MAX, int L, int P, int Q, int S, int N,
          int B, int MASKED>
void attention_scores(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, S * L>>& k, hls::stream<Vec<BiasT, B>>& biases,
                      hls::stream<Vec<attention_score_t, Q>>& scores, AttentionCall call) {
  static_assert(width<BiasT>::value == 16, "attention: biases have 16 bits");
  static_assert((L & (L - 1)) == 0 && (P & (P - 1)) == 0, "attention: lanes L and queries P must be powers of two");
  static_assert(KEYS_MAX <= 65536, "attention: at most 65536 keys, so that a sum of probabilities has 32 bits");
  static_assert(Q <= P && (Q & (Q - 1)) == 0, "attention: Q queries whose softmax goes on per cycle must be a power of two up to P");
  static_assert((S & (S - 1)) == 0 && S <= P && S % N == 0, "attention: S keys at a time, a power of two, need as many lanes of queries");
  static_assert(B == 1 || B == Q, "attention: a bias is one for all queries, or has a lane for each whose softmax goes on");
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P, GROUPS = P / Q;
  static const int STEPS_MAX = (KEYS_MAX + S - 1) / S;
  static Vec<XT, S * L> k_buffer[2][HEAD_TILES_MAX][STEPS_MAX];
#pragma HLS AGGREGATE variable = k_buffer
#ifdef ATTNC_ATTENTION_K_BUFFER
  ATTNC_BIND(k_buffer, ATTNC_ATTENTION_K_BUFFER)
#endif
  static Vec<XT, L> q_buffer[2][P][HEAD_TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = q_buffer
#ifdef ATTNC_ATTENTION_Q_BUFFER
  ATTNC_BIND(q_buffer, ATTNC_ATTENTION_Q_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = q_buffer dim = 2 complete
  ScoreT acc[P], done[GROUPS][Q];
#pragma HLS ARRAY_PARTITION variable = acc complete
#pragma HLS ARRAY_PARTITION variable = done complete dim = 0
  int sharing = 0, k_held = 1, done_groups = 0, done_key = 0, done_block = 0;
  const AttentionCall steps = walked<S>(call);
  const bool alone = is_alone<S>(call);

  // Head -1 computes nothing: it loads the first. Head `heads` only sends the last scores.
SCORE_HEADS:
  for (int head = -1; head <= call.heads; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 3 max = 18
    const bool loading = head + 1 < call.heads, computing = head >= 0 && head < call.heads;
    const int q_loads = loading ? call.q_words : 0;
    const int k_loads = loading && sharing == 0 ? call.k_words : 0;
    const int busy = head < 0 ? 0 : head < call.heads ? call.score_steps : GROUPS;
    const int trips = max_of(busy, max_of(q_loads, k_loads));
    const int q_use = head & 1, q_fill = (head + 1) & 1, k_use = k_held, k_fill = 1 - k_held;
    k_held = k_loads > 0 ? k_fill : k_held;
    sharing = sharing + 1 == call.heads_per_kv ? 0 : sharing + 1;
    int q_tile = 0, q_row = 0, k_tile = 0, k_row = 0, tile = 0;
    // Rows past `rows` in the last block hold what an earlier call left: their results are dropped by attention_normalise.
    KeyCursor at = key_start<P, MASKED>(steps);
    ATTNC_LOOP(SCORES)
  SCORES:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX * KEYS_MAX * HEAD_TILES_MAX
#pragma HLS DEPENDENCE variable = q_buffer inter false
#pragma HLS DEPENDENCE variable = k_buffer inter false
      ATTNC_TICK(SCORES)
      if (i < q_loads) {
        const Vec<XT, L> word = q.read();
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          if (p == q_row % P) q_buffer[q_fill][p][q_tile][q_row / P] = word;
        }
        q_tile = q_row + 1 == call.rows ? q_tile + 1 : q_tile;
        q_row = q_row + 1 == call.rows ? 0 : q_row + 1;
      }
      if (i < k_loads) {
        k_buffer[k_fill][k_tile][k_row] = k.read();
        k_tile = k_row + 1 == call.key_steps ? k_tile + 1 : k_tile;
        k_row = k_row + 1 == call.key_steps ? 0 : k_row + 1;
      }
      if (done_groups > 0) {
        const int group = GROUPS - done_groups;
        Vec<BiasT, B> bias;
        for (int b = 0; b < B; ++b) {
#pragma HLS UNROLL
          bias.v[b] = 0;
        }
        if (call.bias_heads > 0) bias = biases.read();
        Vec<attention_score_t, Q> out;
        for (int j = 0; j < Q; ++j) {
#pragma HLS UNROLL
          const int lane = group * Q + j, place = call.position + (alone ? 0 : done_block * P + lane);
          const int key = alone ? key_of<S, N>(done_key, lane, call) : done_key;
          const bool there = !alone || (lane < S && key < call.keys);
          const bool reached = MASKED == 0 || (place - call.before <= key && key <= place + call.after);
          // In a ring what lies behind the place of a query is older by the whole of it.
          const int back = place - key, age = back < 0 ? back + call.ring : back;
          const bool own = key < call.prefix || ((key - call.prefix - place) & (call.branches - 1)) == 0;
          const bool allowed = there && reached && (MASKED != 2 || age <= call.window) && (MASKED != 3 || own);
          out.v[j] = attention_score<ScoreT, BiasT, Cap>(done[group][j], bias.v[j % B], allowed, call);
        }
        scores.write(out);
        --done_groups;
      }
      if (computing && i < call.score_steps) {
        Vec<XT, L> qs[P];
        ScoreT sums[P];
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          qs[p] = q_buffer[q_use][p][tile][at.block];
          sums[p] = tile == 0 ? ScoreT(0) : acc[p];
        }
        KeyPlace place = {at.key, 0};
        if (S > 1 && !alone) place = place_of<S, N>(at.key, call);
        const Vec<XT, S * L> keys = k_buffer[k_use][tile][place.step];
        const Vec<XT, L> shared = alone ? qs[0] : vector_of<XT, L, S>(keys, place.lane);
        for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
          if (alone) qs[s] = vector_of<XT, L, S>(keys, s);
        }
        add_products<ScoreT, XT, L, P>(qs, shared, sums);
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          acc[p] = sums[p];
        }
        ++tile;
        if (tile == call.qk_tiles) {
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            done[p / Q][p % Q] = sums[p];
          }
          done_groups = GROUPS;
          done_key = at.key;
          done_block = at.block;
          tile = 0;
          at = key_next<P, MASKED>(at, steps);
        }
      }
    }
  }
}

// Passes a row of scores on and, after its last key, its maximum; group after group for each key. A query alone has one, of all lanes.
template <int P, int Q, int S, int MASKED>
void attention_maximum(hls::stream<Vec<attention_score_t, Q>>& scores, hls::stream<Vec<attention_score_t, Q>>& row,
                       hls::stream<Vec<attention_score_t, Q>>& maxima, AttentionCall call) {
  static const int GROUPS = P / Q;
  const int steps = call.all_scored * GROUPS;
  attention_score_t maximum[GROUPS][Q];
#pragma HLS ARRAY_PARTITION variable = maximum complete dim = 0
  const AttentionCall walk = walked<S>(call);
  const bool alone = is_alone<S>(call);
  attention_score_t top = SCORE_EXCLUDED;
  KeyCursor at = key_start<P, MASKED>(walk);
  int group = 0;
  ATTNC_LOOP(MAXIMUM)
MAXIMUM:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    ATTNC_TICK(MAXIMUM)
    const Vec<attention_score_t, Q> score = scores.read();
    Vec<attention_score_t, Q> largest;
    for (int j = 0; j < Q; ++j) {
#pragma HLS UNROLL
      const attention_score_t held = maximum[group][j];
      largest.v[j] = at.key == at.range.first || held < score.v[j] ? score.v[j] : held;
      maximum[group][j] = largest.v[j];
    }
    row.write(score);
    const bool last = at.key + 1 == at.range.stop;
    if (alone) {
      attention_score_t found = score.v[0];
      for (int j = 1; j < Q; ++j) {
#pragma HLS UNROLL
        found = found < score.v[j] ? score.v[j] : found;
      }
      top = (at.key == 0 && group == 0) || top < found ? found : top;
      for (int j = 0; j < Q; ++j) {
#pragma HLS UNROLL
        largest.v[j] = top;
      }
    }
    if (last && (!alone || group + 1 == GROUPS)) maxima.write(largest);
    group = group + 1 == GROUPS ? 0 : group + 1;
    if (group == 0) at = key_next<P, MASKED>(at, walk);
  }
}

// Probabilities relative to the maximum, of P queries per key, and their sums, group after group. A query alone has one maximum and one
// sum.
template <class SumT, class Exp2, int P, int Q, int S, int MASKED>
void attention_exponential(hls::stream<Vec<attention_score_t, Q>>& row, hls::stream<Vec<attention_score_t, Q>>& maxima,
                           hls::stream<Vec<probability_t, P>>& probabilities, hls::stream<Vec<SumT, Q>>& sums, AttentionCall call) {
  typedef Int<SCORE_BITS + 3> difference_t;
  static const int GROUPS = P / Q;
  const int steps = call.all_scored * GROUPS;
  attention_score_t maximum[GROUPS][Q];
#pragma HLS ARRAY_PARTITION variable = maximum complete dim = 0
  SumT sum[GROUPS][Q];
#pragma HLS ARRAY_PARTITION variable = sum complete dim = 0
  probability_t made[GROUPS][Q];
#pragma HLS ARRAY_PARTITION variable = made complete dim = 0
  const AttentionCall walk = walked<S>(call);
  const bool alone = is_alone<S>(call);
  SumT whole = 0;
  KeyCursor at = key_start<P, MASKED>(walk);
  int group = 0;
  ATTNC_LOOP(EXPONENTIAL)
EXPONENTIAL:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    ATTNC_TICK(EXPONENTIAL)
    const bool first = at.key == at.range.first;
    Vec<attention_score_t, Q> largest;
    for (int j = 0; j < Q; ++j) {
#pragma HLS UNROLL
      largest.v[j] = maximum[alone ? 0 : group][j];
    }
    if (first && (!alone || group == 0)) largest = maxima.read();
    const Vec<attention_score_t, Q> score = row.read();
    Vec<SumT, Q> total;
    SumT together = 0;
    for (int j = 0; j < Q; ++j) {
#pragma HLS UNROLL
      maximum[alone ? 0 : group][j] = largest.v[j];
      const probability_t value = exp2_negative<Exp2, difference_t>(difference_t(largest.v[j]) - difference_t(score.v[j]));
      const probability_t probability = score.v[j] == SCORE_EXCLUDED ? probability_t(0) : value;
      made[group][j] = probability;
      total.v[j] = SumT((first ? SumT(0) : sum[group][j]) + SumT(probability));
      sum[group][j] = total.v[j];
      together = SumT(together + SumT(probability));
    }
    const bool last = at.key + 1 == at.range.stop;
    if (alone) {
      whole = SumT((first && group == 0 ? SumT(0) : whole) + together);
      total.v[0] = whole;
    }
    if (last && (!alone || group + 1 == GROUPS)) sums.write(total);
    group = group + 1 == GROUPS ? 0 : group + 1;
    if (group == 0) {
      Vec<probability_t, P> out;
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        out.v[p] = made[p / Q][p % Q];
      }
      probabilities.write(out);
      at = key_next<P, MASKED>(at, walk);
    }
  }
}

// Sum of p * v for P queries and L channels at a time: for each block the keys once per tile. One DSP48E2 per query and channel multiplies
// and accumulates: its P register feeds the adder, which takes 0 in its place at the first key (UG579). A pass ends when the sums
// of the one before have left. The sums of a query alone are added up as they leave.
template <class VT, class AccT, int VALUE_TILES_MAX, int KEYS_MAX, int L, int P, int S, int N, int R, int MASKED>
void attention_weighted(hls::stream<Vec<VT, S * L>>& v, hls::stream<Vec<probability_t, P>>& probabilities,
                        hls::stream<Vec<AccT, L>>& weighted, AttentionCall call) {
  static_assert(width<VT>::value <= 16, "attention: values have at most 16 bits");
  typedef Int<PROBABILITY_BITS + 2> factor_t;
  static const int STEPS_MAX = (KEYS_MAX + S - 1) / S;
  static Vec<VT, S * L> v_buffer[2][VALUE_TILES_MAX][STEPS_MAX];
#pragma HLS AGGREGATE variable = v_buffer
#ifdef ATTNC_ATTENTION_V_BUFFER
  ATTNC_BIND(v_buffer, ATTNC_ATTENTION_V_BUFFER)
#endif
  static Vec<probability_t, P> p_buffer[KEYS_MAX];
#pragma HLS AGGREGATE variable = p_buffer
#ifdef ATTNC_ATTENTION_P_BUFFER
  ATTNC_BIND(p_buffer, ATTNC_ATTENTION_P_BUFFER)
#endif
  AccT acc[P][L], done[P][L];
#pragma HLS ARRAY_PARTITION variable = acc dim = 0 complete
#pragma HLS ARRAY_PARTITION variable = done dim = 0 complete
  const AttentionCall walk = walked<S>(call);
  const bool alone = is_alone<S>(call);
  const int leaving = leaving_rows<P, R>(call);
  KeyCursor at = key_start<P, MASKED>(walk);
  int tile = 0, done_rows = 0;

  // Head -1 computes nothing: it loads the first values. Head `kv_heads` only sends the last sums.
WEIGHTED_HEADS:
  for (int head = -1; head <= call.kv_heads; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 3 max = 18
    const int loads = head + 1 < call.kv_heads ? call.v_words : 0;
    const bool computing = head >= 0 && head < call.kv_heads;
    const int busy = head < 0 ? 0 : computing ? call.paced_products : leaving;
    const int trips = max_of(loads, busy);
    const int use = head & 1, fill = (head + 1) & 1;
    int load_tile = 0, load_key = 0, left = computing ? call.products : 0;
    ATTNC_LOOP(WEIGHTED)
  WEIGHTED:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = VALUE_TILES_MAX * KEYS_MAX * 16
#pragma HLS DEPENDENCE variable = v_buffer inter false
      ATTNC_TICK(WEIGHTED)
      if (i < loads) {
        v_buffer[fill][load_tile][load_key] = v.read();
        load_tile = load_key + 1 == call.key_steps ? load_tile + 1 : load_tile;
        load_key = load_key + 1 == call.key_steps ? 0 : load_key + 1;
      }
      const bool first = at.key == at.range.first, last = at.key + 1 == at.range.stop;
      const bool multiplies = left > 0 && !(last && done_rows > 1);
      if (done_rows > 0) {
        Vec<AccT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          AccT sum = done[leaving - done_rows][l];
          for (int s = 1; s < S; ++s) {
#pragma HLS UNROLL
            if (alone) sum = AccT(sum + done[s][l]);
          }
          out.v[l] = sum;
        }
        weighted.write(out);
        --done_rows;
      }
      if (multiplies) {
        Vec<probability_t, P> probability;
        if (tile == 0) {
          probability = probabilities.read();
          p_buffer[at.key] = probability;
        } else {
          probability = p_buffer[at.key];
        }
        KeyPlace place = {at.key, 0};
        if (S > 1 && !alone) place = place_of<S, N>(at.key, call);
        const Vec<VT, S * L> some = v_buffer[use][tile][place.step];
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          const Vec<VT, L> values = vector_of<VT, L, S>(some, alone && p < S ? p : place.lane);
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            const AccT product = AccT(factor_t(probability.v[p]) * values.v[l]);
            acc[p][l] = AccT((first ? AccT(0) : acc[p][l]) + product);
          }
        }
        --left;
        if (!last) {
          ++at.key;
        } else {
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
              done[p][l] = acc[p][l];
            }
          }
          done_rows = leaving;
          ++tile;
          if (tile == call.v_tiles) {
            tile = 0;
            at = key_next<P, MASKED>(at, walk);
          } else {
            at.key = at.range.first;
          }
        }
      }
    }
  }
}

}  // namespace attnc
