#pragma once
// attention: y = softmax(scale * q . k + bias) . v, one shared engine for every head of the model.
//
// Shapes   a call serves `rows` queries of each of heads = kv_heads * heads_per_kv heads (groups count as heads). Streams:
//          q     per head: qk_tiles * rows vectors, (tile, row) order
//          k, v  per kv head: qk_tiles * keys and v_tiles * keys vectors, (tile, key) order
//          bias  (vectors) for no head, the first or every one (bias_heads is 0, 1 or more): ceil(keys / L) * bias_rows vectors, (key tile,
//                row) order; one row serves all queries when bias_rows is 1; or words with a bias as `channels` of queries and keys
//                for every head, attention_channels.hpp
//          `scored` is the number of keys of a head's blocks of P queries, summed: what key_range gives (attention_common.hpp)
//          y     per head: v_tiles * rows vectors, (tile, row) order
// Types    XT signed bytes; ScoreT holds q . k, SumT a sum of `keys` probabilities, AccT the weighted sum of values.
// Numbers  scores in base 2, see exponential.hpp, capped where Cap has more than one entry; bias in units of 2^bias_shift scores,
//          -32768 excludes a key; masks see attention_common.hpp; a query without any allowed key gives zeros. Two
//          passes over a row of scores: the maximum is exact, nothing is rescaled.
// Rounding requantize (half up) to scores and to outputs, saturation to [low, high].
// Speed    P*L multiply-adds per cycle (II = 1) for q . k and as many for p . v, at the same time on successive blocks of P queries:
//          about keys * max(qk_tiles, v_tiles) cycles per block, of the keys that the block may look at. Keys, values and queries are
//          each read once per call.
// Source   two-pass cascade with a row buffer as in FuseMax; resident queries past which the keys stream as in Edge-MoE.

#include "attnc/attention_channels.hpp"
#include "attnc/attention_common.hpp"
#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

// Bias of P queries per key. The rows of a head are loaded before its first block.
template <class BiasT, int KEYS_MAX, int BIAS_ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int L, int P>
void attention_bias(hls::stream<Vec<BiasT, L>>& bias, hls::stream<Vec<BiasT, P>>& biases, int heads, int rows, int keys,
                    int scored, int position, int before, int after, int bias_heads, int bias_rows, int) {
  static const int TILES_MAX = (KEYS_MAX + L - 1) / L;
  static const int BLOCKS_MAX = (BIAS_ROWS_MAX + P - 1) / P;
  static Vec<BiasT, L> buffer[P][TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_ATTENTION_BIAS_BUFFER
  ATTNC_BIND(buffer, ATTNC_ATTENTION_BIAS_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = buffer dim = 1 complete
  const int load_words = (keys + L - 1) / L * bias_rows;
  const int steps = bias_heads > 0 ? scored : 0;

BIAS_HEADS:
  for (int head = 0; head < heads; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    // A bias of one head is loaded once, for all; one per head is loaded for each.
    const int loads = bias_heads > 1 || (bias_heads == 1 && head == 0) ? load_words : 0;
    int tile = 0, row = 0;
  LOAD_BIAS:
    for (int i = 0; i < loads; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * BIAS_ROWS_MAX
      buffer[row % P][tile][row / P] = bias.read();
      tile = row + 1 == bias_rows ? tile + 1 : tile;
      row = row + 1 == bias_rows ? 0 : row + 1;
    }
    KeyCursor at = key_start<P>(rows, keys, position, before, after);
  EMIT_BIAS:
    for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * BLOCKS_MAX
      Vec<BiasT, P> out;
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        const Vec<BiasT, L> word = buffer[bias_rows == 1 ? 0 : p][at.key / L][bias_rows == 1 ? 0 : at.block];
        out.v[p] = word.v[at.key % L];
      }
      biases.write(out);
      at = key_next<P>(at, rows, keys, position, before, after);
    }
  }
}

// The same from factors of every head: rank-one terms summed over channels, PER_STEP at a time.
template <class BiasT, int KEYS_MAX, int ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int L, int P>
void attention_bias(hls::stream<Word<L>>& factors, hls::stream<Vec<BiasT, P>>& biases, int heads, int rows, int keys, int scored,
                    int position, int before, int after, int bias_heads, int, int channels) {
  typedef BiasChannels<CHANNELS_MAX, PER_STEP, L> Channels;
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static typename Channels::Factors q_factors[P][Channels::WORDS][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = q_factors
#pragma HLS ARRAY_PARTITION variable = q_factors dim = 1 complete
  static typename Channels::Factors k_factors[Channels::WORDS][KEYS_MAX];
#pragma HLS AGGREGATE variable = k_factors
  const int words = (channels + Channels::PER_WORD - 1) / Channels::PER_WORD, channel_steps = (channels + PER_STEP - 1) / PER_STEP;
  const int sweeps = bias_heads > 0 ? heads : 0;

BIAS_HEADS:
  for (int head = 0; head < sweeps; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    const BiasScale scale = bias_scale<L>(factors.read());
    int word = 0, row = 0;
  LOAD_Q_FACTORS:
    for (int i = 0; i < rows * words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX * Channels::WORDS
      q_factors[row % P][word][row / P] = Channels::factors(factors.read());
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
    word = 0;
    row = 0;
  LOAD_K_FACTORS:
    for (int i = 0; i < keys * words; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * Channels::WORDS
      k_factors[word][row] = Channels::factors(factors.read());
      row = word + 1 == words ? row + 1 : row;
      word = word + 1 == words ? 0 : word + 1;
    }
    KeyCursor at = key_start<P>(rows, keys, position, before, after);
    bias_sum_t<CHANNELS_MAX> acc[P];
#pragma HLS ARRAY_PARTITION variable = acc complete
    int step = 0;
  EMIT_BIAS:
    for (int i = 0; i < scored * channel_steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * BLOCKS_MAX
      const int channel = step * PER_STEP;
      const typename Channels::Factors ks = k_factors[channel / Channels::PER_WORD][at.key];
      Vec<BiasT, P> out;
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        const typename Channels::Factors qs = q_factors[p][channel / Channels::PER_WORD][at.block];
        const bias_sum_t<CHANNELS_MAX> products = Channels::products(qs, ks, channel % Channels::PER_WORD);
        acc[p] = step == 0 ? products : bias_sum_t<CHANNELS_MAX>(acc[p] + products);
        out.v[p] = BiasT(requantize<bias_sum_t<CHANNELS_MAX>>(acc[p], scale.multiplier, scale.shift, -BIAS_LIMIT, BIAS_LIMIT));
      }
      if (step + 1 == channel_steps) {
        biases.write(out);
        at = key_next<P>(at, rows, keys, position, before, after);
      }
      step = step + 1 == channel_steps ? 0 : step + 1;
    }
  }
}

// Scores of P queries per key: exact q . k, rescaled, plus bias.
template <class XT, class BiasT, class ScoreT, class Cap, int HEAD_TILES_MAX, int KEYS_MAX, int ROWS_MAX, int L, int P>
void attention_scores(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, L>>& k, hls::stream<Vec<BiasT, P>>& biases,
                      hls::stream<Vec<attention_score_t, P>>& scores, int kv_heads, int heads_per_kv, int rows, int keys, int scored,
                      int qk_tiles, int position, int before, int after, int multiplier, int shift, int cap_multiplier, int cap_shift,
                      int bias_heads, int bias_shift) {
  static const int BLOCKS_MAX = (ROWS_MAX + P - 1) / P;
  static Vec<XT, L> k_buffer[HEAD_TILES_MAX][KEYS_MAX];
#pragma HLS AGGREGATE variable = k_buffer
#ifdef ATTNC_ATTENTION_K_BUFFER
  ATTNC_BIND(k_buffer, ATTNC_ATTENTION_K_BUFFER)
#endif
  static Vec<XT, L> q_buffer[P][HEAD_TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = q_buffer
#ifdef ATTNC_ATTENTION_Q_BUFFER
  ATTNC_BIND(q_buffer, ATTNC_ATTENTION_Q_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = q_buffer dim = 1 complete
  const int steps = scored * qk_tiles;
  const int q_words = rows * qk_tiles;
  const bool biased = bias_heads > 0;
  int sharing = 0;

SCORE_HEADS:
  for (int head = 0; head < kv_heads * heads_per_kv; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    const int k_words = sharing == 0 ? keys * qk_tiles : 0;
    sharing = sharing + 1 == heads_per_kv ? 0 : sharing + 1;
    const int loads = k_words > q_words ? k_words : q_words;
    int q_tile = 0, q_row = 0, k_tile = 0, k_row = 0;
  LOAD_QK:
    for (int i = 0; i < loads; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = HEAD_TILES_MAX * KEYS_MAX
      if (i < q_words) {
        q_buffer[q_row % P][q_tile][q_row / P] = q.read();
        q_tile = q_row + 1 == rows ? q_tile + 1 : q_tile;
        q_row = q_row + 1 == rows ? 0 : q_row + 1;
      }
      if (i < k_words) {
        k_buffer[k_tile][k_row] = k.read();
        k_tile = k_row + 1 == keys ? k_tile + 1 : k_tile;
        k_row = k_row + 1 == keys ? 0 : k_row + 1;
      }
    }
    // Rows past `rows` in the last block hold what an earlier call left: their results are dropped by attention_normalise.
    KeyCursor at = key_start<P>(rows, keys, position, before, after);
    int tile = 0;
    ScoreT acc[P];
#pragma HLS ARRAY_PARTITION variable = acc complete
  SCORES:
    for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX * KEYS_MAX * HEAD_TILES_MAX
      const Vec<XT, L> ks = k_buffer[tile][at.key];
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        const Vec<XT, L> qs = q_buffer[p][tile][at.block];
        ScoreT sum = tile == 0 ? ScoreT(0) : acc[p];
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          sum += ScoreT(qs.v[l] * ks.v[l]);
        }
        acc[p] = sum;
      }
      if (tile + 1 == qk_tiles) {
        Vec<BiasT, P> bias;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          bias.v[p] = 0;
        }
        if (biased) bias = biases.read();
        Vec<attention_score_t, P> out;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          const int place = position + at.block * P + p;
          const bool allowed = place - before <= at.key && at.key <= place + after;
          out.v[p] = attention_score<ScoreT, BiasT, Cap>(acc[p], multiplier, shift, cap_multiplier, cap_shift, biased, bias.v[p],
                                                         bias_shift, allowed);
        }
        scores.write(out);
        tile = 0;
        at = key_next<P>(at, rows, keys, position, before, after);
      } else {
        ++tile;
      }
    }
  }
}

// Passes a row of scores on and, after its last key, its maximum.
template <int P>
void attention_maximum(hls::stream<Vec<attention_score_t, P>>& scores, hls::stream<Vec<attention_score_t, P>>& row,
                       hls::stream<Vec<attention_score_t, P>>& maxima, int heads, int rows, int keys, int scored, int position,
                       int before, int after) {
  const int steps = heads * scored;
  Vec<attention_score_t, P> maximum;
#pragma HLS ARRAY_PARTITION variable = maximum.v complete
  KeyCursor at = key_start<P>(rows, keys, position, before, after);
MAXIMUM:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    const Vec<attention_score_t, P> score = scores.read();
    for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
      maximum.v[p] = at.key == at.range.first || maximum.v[p] < score.v[p] ? score.v[p] : maximum.v[p];
    }
    row.write(score);
    if (at.key + 1 == at.range.stop) maxima.write(maximum);
    at = key_next<P>(at, rows, keys, position, before, after);
  }
}

// Probabilities relative to the maximum, and their sum.
template <class SumT, class Exp2, int P>
void attention_exponential(hls::stream<Vec<attention_score_t, P>>& row, hls::stream<Vec<attention_score_t, P>>& maxima,
                           hls::stream<Vec<probability_t, P>>& probabilities, hls::stream<Vec<SumT, P>>& sums, int heads, int rows,
                           int keys, int scored, int position, int before, int after) {
  typedef Int<SCORE_BITS + 3> difference_t;
  const int steps = heads * scored;
  Vec<attention_score_t, P> maximum;
#pragma HLS ARRAY_PARTITION variable = maximum.v complete
  Vec<SumT, P> sum;
#pragma HLS ARRAY_PARTITION variable = sum.v complete
  KeyCursor at = key_start<P>(rows, keys, position, before, after);
EXPONENTIAL:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    if (at.key == at.range.first) maximum = maxima.read();
    const Vec<attention_score_t, P> score = row.read();
    Vec<probability_t, P> probability;
    for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
      const probability_t value = exp2_negative<Exp2, difference_t>(difference_t(maximum.v[p]) - difference_t(score.v[p]));
      probability.v[p] = score.v[p] == SCORE_EXCLUDED ? probability_t(0) : value;
      sum.v[p] = SumT((at.key == at.range.first ? SumT(0) : sum.v[p]) + SumT(probability.v[p]));
    }
    probabilities.write(probability);
    if (at.key + 1 == at.range.stop) sums.write(sum);
    at = key_next<P>(at, rows, keys, position, before, after);
  }
}

// Sum of p * v for P queries and L channels at a time.
template <class XT, class AccT, int VALUE_TILES_MAX, int KEYS_MAX, int L, int P>
void attention_weighted(hls::stream<Vec<XT, L>>& v, hls::stream<Vec<probability_t, P>>& probabilities,
                        hls::stream<Vec<AccT, P * L>>& weighted, int kv_heads, int heads_per_kv, int rows, int keys,
                        int v_tiles, int position, int before, int after) {
  const int blocks = (rows + P - 1) / P;
  typedef Int<PROBABILITY_BITS + 2> factor_t;
  static Vec<XT, L> v_buffer[VALUE_TILES_MAX][KEYS_MAX];
#pragma HLS AGGREGATE variable = v_buffer
#ifdef ATTNC_ATTENTION_V_BUFFER
  ATTNC_BIND(v_buffer, ATTNC_ATTENTION_V_BUFFER)
#endif
  static Vec<probability_t, P> p_buffer[KEYS_MAX];
#pragma HLS AGGREGATE variable = p_buffer
#ifdef ATTNC_ATTENTION_P_BUFFER
  ATTNC_BIND(p_buffer, ATTNC_ATTENTION_P_BUFFER)
#endif

WEIGHTED_HEADS:
  for (int head = 0; head < kv_heads; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
  LOAD_V_TILES:
    for (int tile = 0; tile < v_tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = VALUE_TILES_MAX
    LOAD_V:
      for (int key = 0; key < keys; ++key) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX
        v_buffer[tile][key] = v.read();
      }
    }
    int block = 0;
  WEIGHTED_BLOCKS:
    for (int i = 0; i < heads_per_kv * blocks; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
      const KeyRange range = key_range<P>(block, rows, keys, position, before, after);
      block = block + 1 == blocks ? 0 : block + 1;
    WEIGHTED_TILES:
      for (int tile = 0; tile < v_tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = VALUE_TILES_MAX
        AccT acc[P][L];
#pragma HLS ARRAY_PARTITION variable = acc dim = 0 complete
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            acc[p][l] = 0;
          }
        }
      WEIGHTED:
        for (int key = range.first; key < range.stop; ++key) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX
          Vec<probability_t, P> probability;
          if (tile == 0) {
            probability = probabilities.read();
            p_buffer[key] = probability;
          } else {
            probability = p_buffer[key];
          }
          const Vec<XT, L> values = v_buffer[tile][key];
          for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
            for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
              acc[p][l] += AccT(factor_t(probability.v[p]) * values.v[l]);
            }
          }
        }
        Vec<AccT, P * L> out;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            out.v[p * L + l] = acc[p][l];
          }
        }
        weighted.write(out);
      }
    }
  }
}

template <class XT, class BiasT, class ScoreT, class SumT, class AccT, class YT, class Exp2, class Cap, int HEAD_TILES_MAX,
          int VALUE_TILES_MAX, int KEYS_MAX, int ROWS_MAX, int BIAS_ROWS_MAX, int CHANNELS_MAX, int PER_STEP, int L, int P, class BiasWord>
void attention(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, L>>& k, hls::stream<Vec<XT, L>>& v, hls::stream<BiasWord>& bias,
               hls::stream<Vec<YT, L>>& y, int heads, int kv_heads, int heads_per_kv, int rows, int keys, int scored, int qk_tiles, int v_tiles,
               int position, int before, int after, int score_multiplier, int score_shift, int cap_multiplier, int cap_shift,
               int bias_heads, int bias_rows, int bias_shift, int bias_channels, int output_multiplier, int output_shift, int low, int high) {
  static_assert(width<XT>::value == 8, "attention: queries, keys and values are bytes");
  static_assert(width<BiasT>::value == 16, "attention: biases have 16 bits");
  static_assert(width<YT>::value >= 16, "attention: outputs have at least 16 bits");
  static_assert((L & (L - 1)) == 0 && (P & (P - 1)) == 0, "attention: lanes L and queries P must be powers of two");
  static_assert(KEYS_MAX <= 65536, "attention: at most 65536 keys, so that a sum of probabilities has 32 bits");
#pragma HLS DATAFLOW
  hls::stream<Vec<BiasT, P>> biases("attention.biases");
#pragma HLS STREAM variable = biases depth = 16
  hls::stream<Vec<attention_score_t, P>> scores("attention.scores");
#pragma HLS STREAM variable = scores depth = 4
  hls::stream<Vec<attention_score_t, P>> row("attention.row");
#pragma HLS STREAM variable = row depth = KEYS_MAX + 2
  hls::stream<Vec<attention_score_t, P>> maxima("attention.maxima");
#pragma HLS STREAM variable = maxima depth = 2
  hls::stream<Vec<probability_t, P>> probabilities("attention.probabilities");
#pragma HLS STREAM variable = probabilities depth = 4
  hls::stream<Vec<SumT, P>> sums("attention.sums");
#pragma HLS STREAM variable = sums depth = 2
  hls::stream<SoftmaxScale> scales("attention.scales");
#pragma HLS STREAM variable = scales depth = 2 * P
  hls::stream<Vec<AccT, P * L>> weighted("attention.weighted");
#pragma HLS STREAM variable = weighted depth = 2
  attention_bias<BiasT, KEYS_MAX, BIAS_ROWS_MAX, CHANNELS_MAX, PER_STEP, L, P>(bias, biases, heads, rows, keys, scored, position, before,
                                                                               after, bias_heads, bias_rows, bias_channels);
  attention_scores<XT, BiasT, ScoreT, Cap, HEAD_TILES_MAX, KEYS_MAX, ROWS_MAX, L, P>(
      q, k, biases, scores, kv_heads, heads_per_kv, rows, keys, scored, qk_tiles, position, before, after, score_multiplier, score_shift,
      cap_multiplier, cap_shift, bias_heads, bias_shift);
  attention_maximum<P>(scores, row, maxima, heads, rows, keys, scored, position, before, after);
  attention_exponential<SumT, Exp2, P>(row, maxima, probabilities, sums, heads, rows, keys, scored, position, before, after);
  attention_reciprocal<SumT, 0, P>(sums, scales, heads, rows, output_multiplier, output_shift);
  attention_weighted<XT, AccT, VALUE_TILES_MAX, KEYS_MAX, L, P>(v, probabilities, weighted, kv_heads, heads_per_kv, rows, keys, v_tiles,
                                                                position, before, after);
  attention_normalise<AccT, YT, VALUE_TILES_MAX, ROWS_MAX, L, P>(weighted, scales, y, heads, rows, v_tiles, low, high);
}

}  // namespace attnc
