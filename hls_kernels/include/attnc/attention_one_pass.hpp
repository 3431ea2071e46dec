#pragma once
// attention_one_pass: y = softmax(scale * q . k + bias) . v with memories that do not depend on the number of keys.
//
// Shapes   a call serves `rows` queries of `heads` heads that share their keys and values. The keys come in `key_blocks` blocks that start
//          `key_step` keys apart and are `block_keys` long; block b owns [b * key_step, (b + 1) * key_step), the last one up to `keys`;
//          what a block carries beyond its own keys is ignored. Streams:
//          q     per head: qk_tiles * rows vectors, (tile, row) order
//          k, v  per head and block: qk_tiles * block_keys and v_tiles * block_keys vectors, (tile, key) order
//          bias  (bias_heads > 0) per head and block: ceil(block_keys / L) * bias_rows vectors, (key tile, row) order; one row serves
//                all queries when bias_rows is 1; or words with a bias as `channels` of queries and keys, attention_channels.hpp: per
//                head the scale and all queries, then block after block the keys
//          y     per head: v_tiles * rows vectors, (tile, row) order
// Types    XT (queries and keys) and VT (values) signed, of 8 or 16 bits; ScoreT holds q . k, SumT a sum of
//          all probabilities, AccT the weighted sum of all values.
// Numbers  scores t as in attention.hpp. Key j belongs to lane j % S. Per query and lane, block after block of keys:
//          m' = max(m, ceil(max t / 2^FRACTION_BITS)), a whole number; l' = l / 2^(m' - m) + sum p; o' = o / 2^(m' - m) + sum p * v with
//          p = exp2_negative(m' * 2^FRACTION_BITS - t). In the end lanes are merged by the same operator, all at once: M = max m,
//          l = sum of l / 2^(M - m), o likewise. A rescale is a right shift, rounded half up; shifts beyond 62 count as 62.
// Rounding requantize (half up) to scores and to outputs, saturation to [low, high].
// Masks    attention_common.hpp. A block of keys that none of P queries may look at is skipped for them.
// Speed    P*S*L multiply-adds per cycle (II = 1) for q . k and as many for p . v. The next block of keys and values is loaded under way.
// Source   online softmax of FlashAttention-2 with a whole maximum, as in base-2 hardware; one-pass cascade of FuseMax; merge operator of
//          LeanAttention; resident queries past which the keys stream as in Edge-MoE.

#include "attnc/attention_channels.hpp"
#include "attnc/attention_common.hpp"
#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct AttentionOnePassCall {
  int heads, rows, keys, block_keys, key_step, key_blocks, qk_tiles, v_tiles, position, before, after;
  int score_multiplier, score_shift, cap_multiplier, cap_shift, bias_heads, bias_rows, bias_shift, bias_channels;
  int output_multiplier, output_shift, low, high;
  // Counts that follow. Of a block of keys: vectors of biases or factors of queries, factors of keys, vectors of keys and of values. Of a
  // head: vectors of queries, sums, outputs. Of all: blocks of keys, blocks of queries.
  int bias_words, key_factor_words, k_words, v_words, q_words, sums, outputs, sweeps, blocks;
};

typedef Int<SCORE_BITS + 2 - FRACTION_BITS> whole_score_t;
static constexpr int WHOLE_EXCLUDED = SCORE_EXCLUDED >> FRACTION_BITS;  // of a query and lane that has not seen a key yet
static constexpr int MAX_RESCALE = 62;

// Maximum after a block of keys, and how far what was summed before has to be shifted.
struct OnlineUpdate {
  whole_score_t maximum;
  shift_t shift;
};

// A block of keys and its first key. The last one is followed by the first; where lanes are merged behind it, that is block `key_blocks`.
struct KeyBlock {
  int number, first;
};

inline KeyBlock block_next(const KeyBlock& keys, bool last, const AttentionOnePassCall& call) {
#pragma HLS INLINE
  KeyBlock next;
  next.number = last ? 0 : keys.number + 1;
  next.first = last ? 0 : keys.first + call.key_step;
  return next;
}

// Turns of a loop: a product of small numbers, which needs no DSP.
template <int STEPS_MAX, int EACH_MAX> int turns(int steps, int each) {
#pragma HLS INLINE
  static constexpr int STEPS = clog2(STEPS_MAX + 1), EACH = clog2(EACH_MAX + 1);
  const UInt<STEPS + EACH> product = UInt<STEPS>(steps) * UInt<EACH>(each);
#pragma HLS BIND_OP variable = product op = mul impl = fabric
  return int(product);
}

// Where a block of P queries and a block of keys meet: steps [first, stop) of S keys each, counted from the start of the block.
struct KeySteps {
  int first, stop;
  bool fresh;  // the first block of keys that these queries see
};

template <int P, int S>
KeySteps key_steps(int block, const KeyBlock& keys, const AttentionOnePassCall& call) {
#pragma HLS INLINE
  const KeyRange range = keys_within<1>(key_reach<P>(block, call), call);
  const int start = keys.first, end = keys.number + 1 == call.key_blocks ? call.keys : start + call.key_step;
  const int first = range.first > start ? range.first : start;
  const int stop = range.stop < end ? range.stop : end;
  KeySteps steps;
  steps.fresh = range.first >= start && range.first < end;
  steps.first = first < stop ? (first - start) / S : 0;
  steps.stop = first < stop ? (stop - start + S - 1) / S : 0;
  return steps;
}

// Bias of P queries and S keys per step.
template <class BiasT, int BLOCK_MAX, int BIAS_ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int L, int P, int S>
void one_pass_bias(hls::stream<Vec<BiasT, L>>& bias, hls::stream<Vec<BiasT, P * S>>& biases, AttentionOnePassCall call) {
  static const int TILES_MAX = (BLOCK_MAX + L - 1) / L;
  static const int BLOCKS_MAX = (BIAS_ROWS_MAX + P - 1) / P;
  static Vec<BiasT, L> buffer[P][TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = buffer
#pragma HLS ARRAY_PARTITION variable = buffer dim = 1 complete
  const int blocks = (call.rows + P - 1) / P;
  const int loads = call.bias_words;
  const int sweeps = call.bias_heads > 0 ? call.sweeps : 0;
  KeyBlock key_block = {0, 0};

BIAS_KEY_BLOCKS:
  for (int sweep = 0; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    int tile = 0, row = 0;
    ATTNC_LOOP(LOAD_BIAS)
  LOAD_BIAS:
    for (int i = 0; i < loads; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * BIAS_ROWS_MAX
      ATTNC_TICK(LOAD_BIAS)
      buffer[row % P][tile][row / P] = bias.read();
      tile = row + 1 == call.bias_rows ? tile + 1 : tile;
      row = row + 1 == call.bias_rows ? 0 : row + 1;
    }
  BIAS_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      const KeySteps steps = key_steps<P, S>(block, key_block, call);
      ATTNC_LOOP(EMIT_BIAS)
    EMIT_BIAS:
      for (int step = steps.first; step < steps.stop; ++step) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCK_MAX / S
        ATTNC_TICK(EMIT_BIAS)
        Vec<BiasT, P * S> out;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          const Vec<BiasT, L> word = buffer[call.bias_rows == 1 ? 0 : p][step * S / L][call.bias_rows == 1 ? 0 : block];
          for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
            out.v[p * S + s] = lane_of<S>(word, step * S % L, s);
          }
        }
        biases.write(out);
      }
    }
    key_block = block_next(key_block, key_block.number + 1 == call.key_blocks, call);
  }
}

// The same from factors of every head: rank-one terms summed over channels, PER_STEP at a time.
template <class BiasT, int BLOCK_MAX, int ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int L, int P, int S>
void one_pass_bias(hls::stream<Word<L>>& factors, hls::stream<Vec<BiasT, P * S>>& biases, AttentionOnePassCall call) {
  typedef BiasChannels<CHANNELS_MAX, PER_STEP, L> Channels;
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static const int STEPS_MAX = (BLOCK_MAX + S - 1) / S;
  static typename Channels::Factors q_factors[P][Channels::WORDS][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = q_factors
#pragma HLS ARRAY_PARTITION variable = q_factors dim = 1 complete
  static typename Channels::Factors k_factors[S][Channels::WORDS][STEPS_MAX];
#pragma HLS AGGREGATE variable = k_factors
#pragma HLS ARRAY_PARTITION variable = k_factors dim = 1 complete
  const int blocks = (call.rows + P - 1) / P;
  const int words = (call.bias_channels + Channels::PER_WORD - 1) / Channels::PER_WORD;
  const int channel_steps = (call.bias_channels + PER_STEP - 1) / PER_STEP;
  const int sweeps = call.bias_heads > 0 ? call.sweeps : 0;
  KeyBlock key_block = {0, 0};
  BiasScale scale = {0, 0};

BIAS_KEY_BLOCKS:
  for (int sweep = 0; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const int q_words = key_block.number == 0 ? call.bias_words : 0;
    if (key_block.number == 0) scale = bias_scale<L>(factors.read());
    int word = 0, row = 0;
    ATTNC_LOOP(LOAD_Q_FACTORS)
  LOAD_Q_FACTORS:
    for (int i = 0; i < q_words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX * Channels::WORDS
      ATTNC_TICK(LOAD_Q_FACTORS)
      q_factors[row % P][word][row / P] = Channels::factors(factors.read());
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
    word = 0;
    row = 0;
    ATTNC_LOOP(LOAD_K_FACTORS)
  LOAD_K_FACTORS:
    for (int i = 0; i < call.key_factor_words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCK_MAX * Channels::WORDS
      ATTNC_TICK(LOAD_K_FACTORS)
      k_factors[row % S][word][row / S] = Channels::factors(factors.read());
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
  BIAS_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      const KeySteps steps = key_steps<P, S>(block, key_block, call);
      const int emits = turns<(BLOCK_MAX + S - 1) / S, (CHANNELS_MAX + PER_STEP - 1) / PER_STEP>(steps.stop - steps.first, channel_steps);
      int key_step_at = steps.first, step = 0;
      bias_sum_t<CHANNELS_MAX> acc[P * S];
#pragma HLS ARRAY_PARTITION variable = acc complete
      ATTNC_LOOP(EMIT_BIAS)
    EMIT_BIAS:
      for (int i = 0; i < emits; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = STEPS_MAX
        ATTNC_TICK(EMIT_BIAS)
        const int channel = step * PER_STEP;
        Vec<BiasT, P * S> out;
        for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
          const typename Channels::Factors ks = k_factors[s][channel / Channels::PER_WORD][key_step_at];
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            const typename Channels::Factors qs = q_factors[p][channel / Channels::PER_WORD][block];
            const int j = p * S + s;
            const bias_sum_t<CHANNELS_MAX> products = Channels::products(qs, ks, channel % Channels::PER_WORD);
            acc[j] = step == 0 ? products : bias_sum_t<CHANNELS_MAX>(acc[j] + products);
            out.v[j] = BiasT(requantize<bias_sum_t<CHANNELS_MAX>>(acc[j], scale.multiplier, scale.shift, -BIAS_LIMIT, BIAS_LIMIT));
          }
        }
        if (step + 1 == channel_steps) {
          biases.write(out);
          ++key_step_at;
        }
        step = step + 1 == channel_steps ? 0 : step + 1;
      }
    }
    key_block = block_next(key_block, key_block.number + 1 == call.key_blocks, call);
  }
}

// Scores of P queries and S keys per step.
template <class XT, class BiasT, class ScoreT, class Cap, int HEAD_TILES_MAX, int BLOCK_MAX, int ROWS_MAX, int L, int P, int S>
void one_pass_scores(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, L>>& k, hls::stream<Vec<BiasT, P * S>>& biases,
                     hls::stream<Vec<attention_score_t, P * S>>& scores, AttentionOnePassCall call) {
  static_assert(width<BiasT>::value == 16, "attention_one_pass: biases have 16 bits");
  static_assert((P & (P - 1)) == 0 && (S & (S - 1)) == 0, "attention_one_pass: queries P and lanes S of keys must be powers of two");
  static_assert(S <= L, "attention_one_pass: at most L lanes of keys, so that their biases lie in one word");
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static const int STEPS_MAX = (BLOCK_MAX + S - 1) / S;
  static Vec<XT, L> k_buffer[2][S][HEAD_TILES_MAX][STEPS_MAX];
#pragma HLS AGGREGATE variable = k_buffer
#pragma HLS ARRAY_PARTITION variable = k_buffer dim = 1 complete
#pragma HLS ARRAY_PARTITION variable = k_buffer dim = 2 complete
  static Vec<XT, L> q_buffer[P][HEAD_TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = q_buffer
#pragma HLS ARRAY_PARTITION variable = q_buffer dim = 1 complete
  const int blocks = (call.rows + P - 1) / P;
  const int sweeps = call.sweeps;
  KeyBlock key_block = {0, 0};
  int loaded = 0, k_tile = 0, k_row = 0;

  // Sweep -1 computes nothing: it loads the first block of keys.
SCORE_KEY_BLOCKS:
  for (int sweep = -1; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const int q_loads = sweep >= 0 && key_block.number == 0 ? call.q_words : 0;
    int q_tile = 0, q_row = 0;
    ATTNC_LOOP(LOAD_Q)
  LOAD_Q:
    for (int i = 0; i < q_loads; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = HEAD_TILES_MAX * ROWS_MAX
      ATTNC_TICK(LOAD_Q)
      q_buffer[q_row % P][q_tile][q_row / P] = q.read();
      q_tile = q_row + 1 == call.rows ? q_tile + 1 : q_tile;
      q_row = q_row + 1 == call.rows ? 0 : q_row + 1;
    }
    const int wanted = sweep + 1 < sweeps ? call.k_words : 0;
    const int next = (sweep + 1) & 1, now = sweep & 1;
    loaded = 0;
    k_tile = 0;
    k_row = 0;
    // Rows past `rows` in the last block hold what an earlier call left: their results are dropped by attention_normalise.
  SCORE_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      const KeySteps steps = key_steps<P, S>(block, key_block, call);
      const int trips = sweep >= 0 ? turns<(BLOCK_MAX + S - 1) / S, HEAD_TILES_MAX>(steps.stop - steps.first, call.qk_tiles) : 0;
      int tile = 0, step = steps.first;
      ScoreT acc[P][S];
#pragma HLS ARRAY_PARTITION variable = acc dim = 0 complete
      ATTNC_LOOP(SCORES)
    SCORES:
      for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = STEPS_MAX * HEAD_TILES_MAX
        ATTNC_TICK(SCORES)
        if (loaded < wanted) {
          k_buffer[next][k_row % S][k_tile][k_row / S] = k.read();
          k_tile = k_row + 1 == call.block_keys ? k_tile + 1 : k_tile;
          k_row = k_row + 1 == call.block_keys ? 0 : k_row + 1;
          ++loaded;
        }
        Vec<XT, L> qs[P];
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          qs[p] = q_buffer[p][tile][block];
        }
        for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
          ScoreT sums[P];
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            sums[p] = tile == 0 ? ScoreT(0) : acc[p][s];
          }
          add_products<ScoreT, XT, L, P>(qs, k_buffer[now][s][tile][step], sums);
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            acc[p][s] = sums[p];
          }
        }
        if (tile + 1 == call.qk_tiles) {
          Vec<BiasT, P * S> bias;
          for (int j = 0; j < P * S; ++j) {
#pragma HLS UNROLL
            bias.v[j] = 0;
          }
          if (call.bias_heads > 0) bias = biases.read();
          Vec<attention_score_t, P * S> out;
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            const int at = call.position + block * P + p;
            for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
              const int key = key_block.first + step * S + s;
              const bool allowed = at - call.before <= key && key <= at + call.after && key < call.keys;
              out.v[p * S + s] = attention_score<ScoreT, BiasT, Cap>(acc[p][s], bias.v[p * S + s], allowed, call);
            }
          }
          scores.write(out);
          tile = 0;
          ++step;
        } else {
          ++tile;
        }
      }
    }
    const int missing = wanted - loaded;
    ATTNC_LOOP(LOAD_K)
  LOAD_K:
    for (int i = 0; i < missing; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 0 max = HEAD_TILES_MAX * BLOCK_MAX
      ATTNC_TICK(LOAD_K)
      k_buffer[next][k_row % S][k_tile][k_row / S] = k.read();
      k_tile = k_row + 1 == call.block_keys ? k_tile + 1 : k_tile;
      k_row = k_row + 1 == call.block_keys ? 0 : k_row + 1;
    }
    key_block = block_next(key_block, sweep < 0 || key_block.number + 1 == call.key_blocks, call);
  }
}

// Passes the scores of a block of keys on and, after its last key, the new maxima; after the last block of keys of a head, how far every
// lane is from the largest.
template <int ROWS_MAX, int P, int S>
void one_pass_maximum(hls::stream<Vec<attention_score_t, P * S>>& scores, hls::stream<Vec<attention_score_t, P * S>>& row,
                      hls::stream<Vec<OnlineUpdate, P * S>>& sum_updates, hls::stream<Vec<OnlineUpdate, P * S>>& value_updates,
                      AttentionOnePassCall call) {
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static Vec<whole_score_t, P * S> maxima[BLOCKS_MAX];
#pragma HLS AGGREGATE variable = maxima
  const int blocks = (call.rows + P - 1) / P, sweeps = call.sweeps + call.heads;
  KeyBlock key_block = {0, 0};
MAXIMUM_KEY_BLOCKS:
  for (int sweep = 0; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const bool merging = key_block.number == call.key_blocks;
  MAXIMUM_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      KeySteps steps = key_steps<P, S>(block, key_block, call);
      if (merging) steps.first = steps.stop = 0;
      Vec<attention_score_t, P * S> largest;
#pragma HLS ARRAY_PARTITION variable = largest.v complete
      for (int j = 0; j < P * S; ++j) {
#pragma HLS UNROLL
        largest.v[j] = SCORE_EXCLUDED;
      }
      ATTNC_LOOP(MAXIMUM)
    MAXIMUM:
      for (int step = steps.first; step < steps.stop; ++step) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
        ATTNC_TICK(MAXIMUM)
        const Vec<attention_score_t, P * S> score = scores.read();
        for (int j = 0; j < P * S; ++j) {
#pragma HLS UNROLL
          largest.v[j] = largest.v[j] < score.v[j] ? score.v[j] : largest.v[j];
        }
        row.write(score);
      }
      if (merging || steps.first < steps.stop) {
        const Vec<whole_score_t, P * S> old = maxima[block];
        Vec<whole_score_t, P * S> found;
        Vec<OnlineUpdate, P * S> update;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          whole_score_t top = WHOLE_EXCLUDED;
          for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
            top = top < old.v[p * S + s] ? old.v[p * S + s] : top;
          }
          for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
            const int j = p * S + s;
            const whole_score_t before_it = steps.fresh ? whole_score_t(WHOLE_EXCLUDED) : old.v[j];
            const whole_score_t ceiling = whole_score_t((int(largest.v[j]) + (1 << FRACTION_BITS) - 1) >> FRACTION_BITS);
            const whole_score_t grown = before_it < ceiling ? ceiling : before_it;
            const int distance = merging ? int(top) - int(old.v[j]) : int(grown) - int(before_it);
            found.v[j] = merging ? old.v[j] : grown;
            update.v[j].maximum = found.v[j];
            update.v[j].shift = shift_t(distance < MAX_RESCALE ? distance : MAX_RESCALE);
          }
        }
        maxima[block] = found;
        sum_updates.write(update);
        value_updates.write(update);
      }
    }
    key_block = block_next(key_block, merging, call);
  }
}

// Probabilities relative to the maxima so far, and their rescaled sums; per head and block of queries the sum over all lanes.
template <class SumT, class Exp2, int ROWS_MAX, int P, int S>
void one_pass_exponential(hls::stream<Vec<attention_score_t, P * S>>& row, hls::stream<Vec<OnlineUpdate, P * S>>& updates,
                          hls::stream<Vec<probability_t, P * S>>& probabilities, hls::stream<Vec<SumT, P>>& totals,
                          AttentionOnePassCall call) {
  typedef Int<SCORE_BITS + 3> difference_t;
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static Vec<SumT, P * S> sums[BLOCKS_MAX];
#pragma HLS AGGREGATE variable = sums
  const int blocks = (call.rows + P - 1) / P, sweeps = call.sweeps + call.heads;
  KeyBlock key_block = {0, 0};
EXPONENTIAL_KEY_BLOCKS:
  for (int sweep = 0; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const bool merging = key_block.number == call.key_blocks;
  EXPONENTIAL_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      KeySteps steps = key_steps<P, S>(block, key_block, call);
      if (merging) steps.first = steps.stop = 0;
      if (merging || steps.first < steps.stop) {
        const Vec<OnlineUpdate, P * S> update = updates.read();
        const Vec<SumT, P * S> old = sums[block];
        Vec<SumT, P * S> sum;
#pragma HLS ARRAY_PARTITION variable = sum.v complete
        for (int j = 0; j < P * S; ++j) {
#pragma HLS UNROLL
          sum.v[j] = steps.fresh && !merging ? SumT(0) : SumT(shift_round_half_up<SumT>(old.v[j], update.v[j].shift));
        }
        ATTNC_LOOP(EXPONENTIAL)
      EXPONENTIAL:
        for (int step = steps.first; step < steps.stop; ++step) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
          ATTNC_TICK(EXPONENTIAL)
          const Vec<attention_score_t, P * S> score = row.read();
          Vec<probability_t, P * S> probability;
          for (int j = 0; j < P * S; ++j) {
#pragma HLS UNROLL
            const difference_t maximum = difference_t(int(update.v[j].maximum) * (1 << FRACTION_BITS));
            const probability_t value = exp2_negative<Exp2, difference_t>(difference_t(maximum - difference_t(score.v[j])));
            probability.v[j] = score.v[j] == SCORE_EXCLUDED ? probability_t(0) : value;
            sum.v[j] = SumT(sum.v[j] + SumT(probability.v[j]));
          }
          probabilities.write(probability);
        }
        sums[block] = sum;
        if (merging) {
          Vec<SumT, P> total;
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            SumT all = 0;
            for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
              all = SumT(all + sum.v[p * S + s]);
            }
            total.v[p] = all;
          }
          totals.write(total);
        }
      }
    }
    key_block = block_next(key_block, merging, call);
  }
}

// Rescaled sums of p * v for P queries, S keys and L channels at a time; per head and block of queries the sum over all lanes.
template <class VT, class AccT, int VALUE_TILES_MAX, int BLOCK_MAX, int ROWS_MAX, int L, int P, int S>
void one_pass_weighted(hls::stream<Vec<VT, L>>& v, hls::stream<Vec<probability_t, P * S>>& probabilities,
                       hls::stream<Vec<OnlineUpdate, P * S>>& updates, hls::stream<Vec<AccT, L>>& weighted, AttentionOnePassCall call) {
  static_assert(width<VT>::value <= 16, "attention: values have at most 16 bits");
  typedef Int<PROBABILITY_BITS + 2> factor_t;
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static const int STEPS_MAX = (BLOCK_MAX + S - 1) / S;
  static Vec<VT, L> v_buffer[2][S][VALUE_TILES_MAX][STEPS_MAX];
#pragma HLS AGGREGATE variable = v_buffer
#pragma HLS ARRAY_PARTITION variable = v_buffer dim = 1 complete
#pragma HLS ARRAY_PARTITION variable = v_buffer dim = 2 complete
  static Vec<probability_t, P * S> p_buffer[STEPS_MAX];
#pragma HLS AGGREGATE variable = p_buffer
  static Vec<AccT, S * L> state[VALUE_TILES_MAX][BLOCKS_MAX * P];
#pragma HLS AGGREGATE variable = state
  const int blocks = (call.rows + P - 1) / P;
  const int loads = call.sweeps, sweeps = call.sweeps + call.heads;
  KeyBlock key_block = {call.key_blocks, 0};
  int fetched = 0;
  bool now = true;

  // Sweep -1 computes nothing: it loads the first block of values. The sweep that merges the lanes of a head loads none.
WEIGHTED_KEY_BLOCKS:
  for (int sweep = -1; sweep < sweeps; ++sweep) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const bool merging = key_block.number == call.key_blocks;
    // The block after this one: of this head, or the first of the next, which the merging sweep in between leaves alone.
    const bool fetching = (sweep < 0 || !merging) && fetched < loads;
    const int wanted = fetching ? call.v_words : 0;
    int loaded = 0, v_tile = 0, v_row = 0;
    const int trips = sweep < 0 ? 0 : blocks;
  WEIGHTED_BLOCKS:
    for (int block = 0; block < trips; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX
      KeySteps steps = key_steps<P, S>(block, key_block, call);
      if (merging) steps.first = steps.stop = 0;
      if (merging || steps.first < steps.stop) {
        const Vec<OnlineUpdate, P * S> update = updates.read();
      WEIGHTED_TILES:
        for (int tile = 0; tile < call.v_tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = VALUE_TILES_MAX
          AccT acc[P][S][L];
#pragma HLS ARRAY_PARTITION variable = acc dim = 0 complete
          ATTNC_LOOP(RESCALE)
        RESCALE:
          for (int p = 0; p < P; ++p) {
#pragma HLS PIPELINE II = 1
            ATTNC_TICK(RESCALE)
            const Vec<AccT, S * L> old = state[tile][block * P + p];
            for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
              for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                const AccT shifted = shift_round_half_up<AccT>(old.v[s * L + l], update.v[p * S + s].shift);
                acc[p][s][l] = steps.fresh && !merging ? AccT(0) : shifted;
              }
            }
          }
          ATTNC_LOOP(WEIGHTED)
        WEIGHTED:
          for (int step = steps.first; step < steps.stop; ++step) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = STEPS_MAX
            ATTNC_TICK(WEIGHTED)
            if (loaded < wanted) {
              v_buffer[!now][v_row % S][v_tile][v_row / S] = v.read();
              v_tile = v_row + 1 == call.block_keys ? v_tile + 1 : v_tile;
              v_row = v_row + 1 == call.block_keys ? 0 : v_row + 1;
              ++loaded;
            }
            Vec<probability_t, P * S> probability;
            if (tile == 0) {
              probability = probabilities.read();
              p_buffer[step] = probability;
            } else {
              probability = p_buffer[step];
            }
            for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
              const Vec<VT, L> values = v_buffer[now][s][tile][step];
              for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
                for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                  acc[p][s][l] += AccT(factor_t(probability.v[p * S + s]) * values.v[l]);
                }
              }
            }
          }
          ATTNC_LOOP(KEEP)
        KEEP:
          for (int p = 0; p < P; ++p) {
#pragma HLS PIPELINE II = 1
            ATTNC_TICK(KEEP)
            Vec<AccT, S * L> kept;
            for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
              for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                kept.v[s * L + l] = acc[p][s][l];
              }
            }
            state[tile][block * P + p] = kept;
            if (merging) {
              Vec<AccT, L> out;
              for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                AccT all = 0;
                for (int s = 0; s < S; ++s) {
#pragma HLS UNROLL
                  all = AccT(all + acc[p][s][l]);
                }
                out.v[l] = all;
              }
              weighted.write(out);
            }
          }
        }
      }
    }
    const int missing = wanted - loaded;
    ATTNC_LOOP(LOAD_V)
  LOAD_V:
    for (int i = 0; i < missing; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 0 max = VALUE_TILES_MAX * BLOCK_MAX
      ATTNC_TICK(LOAD_V)
      v_buffer[!now][v_row % S][v_tile][v_row / S] = v.read();
      v_tile = v_row + 1 == call.block_keys ? v_tile + 1 : v_tile;
      v_row = v_row + 1 == call.block_keys ? 0 : v_row + 1;
    }
    fetched = fetching ? fetched + 1 : fetched;
    now = fetching ? !now : now;
    key_block = block_next(key_block, merging, call);
  }
}

}  // namespace attnc
