#pragma once
// attention: y = softmax(scale * q . k + bias) . v, one shared engine for every head of the model.
//
// Shapes   a call serves `rows` queries of each of kv_heads * heads_per_kv heads (groups count as heads). Streams:
//          q     per head: qk_tiles * rows vectors, (tile, row) order
//          k, v  per kv head: qk_tiles * keys and v_tiles * keys vectors, (tile, key) order
//          bias  for no head, the first or every one (bias_heads is 0, 1 or more): ceil(keys / L) * bias_rows vectors, (key tile,
//                row) order; one row serves all queries when bias_rows is 1
//          y     per head: v_tiles * rows vectors, (tile, row) order
// Types    XT signed bytes; ScoreT holds q . k, SumT a sum of `keys` probabilities, AccT the weighted sum of values.
// Numbers  scores in base 2, see exponential.hpp; bias in units of 2^bias_shift scores, -32768 excludes a key; a query without
//          any allowed key gives zeros. Two passes over a row of scores: the maximum is exact, nothing is rescaled.
// Rounding requantize (half up) to scores and to outputs, saturation to [low, high].
// Speed    P*L multiply-adds per cycle (II = 1) for q . k and as many for p . v, at the same time on successive blocks of P queries:
//          about keys * max(qk_tiles, v_tiles) cycles per block. Keys, values and queries are each read once per call.
// Source   two-pass cascade with a row buffer as in FuseMax; resident queries past which the keys stream as in Edge-MoE.

#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

static constexpr int BIAS_EXCLUDED = -32768;
typedef Int<SCORE_BITS + 2> attention_score_t;
static constexpr int SCORE_EXCLUDED = -(1 << (SCORE_BITS + 1));  // below every score, so it never is the maximum

// Bias of P queries per key. The rows of a head are loaded before its first block.
template <class BiasT, int KEYS_MAX, int BIAS_ROWS_MAX, int L, int P>
void attention_bias(hls::stream<Vec<BiasT, L>>& bias, hls::stream<Vec<BiasT, P>>& biases, int kv_heads, int heads_per_kv,
                    int rows, int keys, int bias_heads, int bias_rows) {
  static const int TILES_MAX = (KEYS_MAX + L - 1) / L;
  static const int BLOCKS_MAX = (BIAS_ROWS_MAX + P - 1) / P;
  static Vec<BiasT, L> buffer[P][TILES_MAX][BLOCKS_MAX];
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_ATTENTION_BIAS_BUFFER
  ATTNC_BIND(buffer, ATTNC_ATTENTION_BIAS_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = buffer dim = 1 complete
  const int blocks = (rows + P - 1) / P;
  const int load_words = (keys + L - 1) / L * bias_rows;
  const int steps = bias_heads > 0 ? blocks * keys : 0;

BIAS_HEADS:
  for (int head = 0; head < kv_heads * heads_per_kv; ++head) {
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
    int key = 0, block = 0;
  EMIT_BIAS:
    for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = KEYS_MAX * BLOCKS_MAX
      Vec<BiasT, P> out;
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        const Vec<BiasT, L> word = buffer[bias_rows == 1 ? 0 : p][key / L][bias_rows == 1 ? 0 : block];
        out.v[p] = word.v[key % L];
      }
      biases.write(out);
      block = key + 1 == keys ? block + 1 : block;
      key = key + 1 == keys ? 0 : key + 1;
    }
  }
}

// Scores of P queries per key: exact q . k, rescaled, plus bias.
template <class XT, class BiasT, class ScoreT, int HEAD_TILES_MAX, int KEYS_MAX, int ROWS_MAX, int L, int P>
void attention_scores(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, L>>& k, hls::stream<Vec<BiasT, P>>& biases,
                      hls::stream<Vec<attention_score_t, P>>& scores, int kv_heads, int heads_per_kv, int rows, int keys, int qk_tiles,
                      int multiplier, int shift, int bias_heads, int bias_shift) {
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
  const int steps = (rows + P - 1) / P * keys * qk_tiles;
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
    int tile = 0, key = 0, block = 0;
    ScoreT acc[P];
#pragma HLS ARRAY_PARTITION variable = acc complete
  SCORES:
    for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = BLOCKS_MAX * KEYS_MAX * HEAD_TILES_MAX
      const Vec<XT, L> ks = k_buffer[tile][key];
      for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
        const Vec<XT, L> qs = q_buffer[p][tile][block];
        ScoreT sum = tile == 0 ? ScoreT(0) : acc[p];
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          sum += ScoreT(qs.v[l] * ks.v[l]);
        }
        acc[p] = sum;
      }
      if (tile + 1 == qk_tiles) {
        Vec<BiasT, P> bias;
        if (biased) bias = biases.read();
        Vec<attention_score_t, P> out;
        for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
          const attention_score_t score =
              attention_score_t(requantize<ScoreT>(acc[p], multiplier_t(multiplier), shift_t(shift), -SCORE_LIMIT, SCORE_LIMIT));
          if (biased) {
            const bool excluded = bias.v[p] == BIAS_EXCLUDED;
            // Shifted as unsigned, since C++ leaves the shift of a negative number undefined; the result fits.
            const attention_score_t shifted = attention_score_t(UInt<SCORE_BITS + 2>(bias.v[p]) << bias_shift);
            out.v[p] = excluded ? attention_score_t(SCORE_EXCLUDED) : attention_score_t(score + shifted);
          } else {
            out.v[p] = score;
          }
        }
        scores.write(out);
        block = key + 1 == keys ? block + 1 : block;
        key = key + 1 == keys ? 0 : key + 1;
        tile = 0;
      } else {
        ++tile;
      }
    }
  }
}

// Passes a row of scores on and, after its last key, its maximum.
template <int P>
void attention_maximum(hls::stream<Vec<attention_score_t, P>>& scores, hls::stream<Vec<attention_score_t, P>>& row,
                       hls::stream<Vec<attention_score_t, P>>& maxima, int kv_heads, int heads_per_kv, int rows, int keys) {
  const int steps = kv_heads * heads_per_kv * ((rows + P - 1) / P) * keys;
  Vec<attention_score_t, P> maximum;
#pragma HLS ARRAY_PARTITION variable = maximum.v complete
  int key = 0;
MAXIMUM:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    const Vec<attention_score_t, P> score = scores.read();
    for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
      maximum.v[p] = key == 0 || maximum.v[p] < score.v[p] ? score.v[p] : maximum.v[p];
    }
    row.write(score);
    if (key + 1 == keys) maxima.write(maximum);
    key = key + 1 == keys ? 0 : key + 1;
  }
}

// Probabilities relative to the maximum, and their sum.
template <class SumT, class Exp2, int P>
void attention_exponential(hls::stream<Vec<attention_score_t, P>>& row, hls::stream<Vec<attention_score_t, P>>& maxima,
                           hls::stream<Vec<probability_t, P>>& probabilities, hls::stream<Vec<SumT, P>>& sums, int kv_heads, int heads_per_kv,
                           int rows, int keys) {
  typedef Int<SCORE_BITS + 3> difference_t;
  const int steps = kv_heads * heads_per_kv * ((rows + P - 1) / P) * keys;
  Vec<attention_score_t, P> maximum;
#pragma HLS ARRAY_PARTITION variable = maximum.v complete
  Vec<SumT, P> sum;
#pragma HLS ARRAY_PARTITION variable = sum.v complete
  int key = 0;
EXPONENTIAL:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
    if (key == 0) maximum = maxima.read();
    const Vec<attention_score_t, P> score = row.read();
    Vec<probability_t, P> probability;
    for (int p = 0; p < P; ++p) {
#pragma HLS UNROLL
      const probability_t value = exp2_negative<Exp2, difference_t>(difference_t(maximum.v[p]) - difference_t(score.v[p]));
      probability.v[p] = score.v[p] == SCORE_EXCLUDED ? probability_t(0) : value;
      sum.v[p] = SumT((key == 0 ? SumT(0) : sum.v[p]) + SumT(probability.v[p]));
    }
    probabilities.write(probability);
    if (key + 1 == keys) sums.write(sum);
    key = key + 1 == keys ? 0 : key + 1;
  }
}

// One factor per query: reciprocal of its sum times the scale of the output.
template <class SumT, int P>
void attention_reciprocal(hls::stream<Vec<SumT, P>>& sums, hls::stream<SoftmaxScale>& scales, int kv_heads, int heads_per_kv, int rows,
                          int multiplier, int shift) {
  const int steps = kv_heads * heads_per_kv * ((rows + P - 1) / P) * P;
  Vec<SumT, P> sum;
#pragma HLS ARRAY_PARTITION variable = sum.v complete
  int p = 0;
RECIPROCAL:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = P max = 256 * P
    if (p == 0) sum = sums.read();
    scales.write(softmax_scale<SumT>(sum.v[p], multiplier_t(multiplier), shift_t(shift)));
    p = p + 1 == P ? 0 : p + 1;
  }
}

// Sum of p * v for P queries and L channels at a time.
template <class XT, class AccT, int VALUE_TILES_MAX, int KEYS_MAX, int L, int P>
void attention_weighted(hls::stream<Vec<XT, L>>& v, hls::stream<Vec<probability_t, P>>& probabilities,
                        hls::stream<Vec<AccT, P * L>>& weighted, int kv_heads, int heads_per_kv, int rows, int keys,
                        int v_tiles) {
  const int blocks = heads_per_kv * ((rows + P - 1) / P);
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
  WEIGHTED_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
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
        for (int key = 0; key < keys; ++key) {
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

// Outputs of a head: rescaled as the blocks come, written in (tile, row) order after the last one.
template <class AccT, class YT, int VALUE_TILES_MAX, int ROWS_MAX, int L, int P>
void attention_normalise(hls::stream<Vec<AccT, P * L>>& weighted, hls::stream<SoftmaxScale>& scales, hls::stream<Vec<YT, L>>& y, int kv_heads,
                         int heads_per_kv, int rows, int v_tiles, int low, int high) {
  static Vec<YT, L> y_buffer[VALUE_TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = y_buffer
#ifdef ATTNC_ATTENTION_Y_BUFFER
  ATTNC_BIND(y_buffer, ATTNC_ATTENTION_Y_BUFFER)
#endif
  SoftmaxScale scale[P];
#pragma HLS ARRAY_PARTITION variable = scale complete
  const int blocks = (rows + P - 1) / P;

NORMALISE_HEADS:
  for (int head = 0; head < kv_heads * heads_per_kv; ++head) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
  NORMALISE_BLOCKS:
    for (int block = 0; block < blocks; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    READ_SCALES:
      for (int p = 0; p < P; ++p) {
#pragma HLS PIPELINE II = 1
        scale[p] = scales.read();
      }
      Vec<AccT, P * L> acc;
#pragma HLS ARRAY_PARTITION variable = acc.v complete
      int tile = 0, p = 0;
    NORMALISE:
      for (int i = 0; i < v_tiles * P; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = P max = P * VALUE_TILES_MAX
        if (p == 0) acc = weighted.read();
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          out.v[l] = YT(requantize<AccT>(acc.v[p * L + l], scale[p].multiplier, scale[p].shift, low, high));
        }
        if (block * P + p < rows) y_buffer[tile][block * P + p] = out;
        tile = p + 1 == P ? tile + 1 : tile;
        p = p + 1 == P ? 0 : p + 1;
      }
    }
    int tile = 0, row = 0;
  WRITE_Y:
    for (int i = 0; i < v_tiles * rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = VALUE_TILES_MAX * ROWS_MAX
      y.write(y_buffer[tile][row]);
      tile = row + 1 == rows ? tile + 1 : tile;
      row = row + 1 == rows ? 0 : row + 1;
    }
  }
}

template <class XT, class BiasT, class ScoreT, class SumT, class AccT, class YT, class Exp2, int HEAD_TILES_MAX, int VALUE_TILES_MAX,
          int KEYS_MAX, int ROWS_MAX, int BIAS_ROWS_MAX, int L, int P>
void attention(hls::stream<Vec<XT, L>>& q, hls::stream<Vec<XT, L>>& k, hls::stream<Vec<XT, L>>& v, hls::stream<Vec<BiasT, L>>& bias,
               hls::stream<Vec<YT, L>>& y, int kv_heads, int heads_per_kv, int rows, int keys, int qk_tiles, int v_tiles,
               int score_multiplier, int score_shift, int bias_heads, int bias_rows, int bias_shift, int output_multiplier,
               int output_shift, int low, int high) {
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
  attention_bias<BiasT, KEYS_MAX, BIAS_ROWS_MAX, L, P>(bias, biases, kv_heads, heads_per_kv, rows, keys, bias_heads, bias_rows);
  attention_scores<XT, BiasT, ScoreT, HEAD_TILES_MAX, KEYS_MAX, ROWS_MAX, L, P>(q, k, biases, scores, kv_heads, heads_per_kv, rows, keys,
                                                                               qk_tiles, score_multiplier, score_shift, bias_heads,
                                                                               bias_shift);
  attention_maximum<P>(scores, row, maxima, kv_heads, heads_per_kv, rows, keys);
  attention_exponential<SumT, Exp2, P>(row, maxima, probabilities, sums, kv_heads, heads_per_kv, rows, keys);
  attention_reciprocal<SumT, P>(sums, scales, kv_heads, heads_per_kv, rows, output_multiplier, output_shift);
  attention_weighted<XT, AccT, VALUE_TILES_MAX, KEYS_MAX, L, P>(v, probabilities, weighted, kv_heads, heads_per_kv, rows, keys, v_tiles);
  attention_normalise<AccT, YT, VALUE_TILES_MAX, ROWS_MAX, L, P>(weighted, scales, y, kv_heads, heads_per_kv, rows, v_tiles, low, high);
}

}  // namespace attnc
