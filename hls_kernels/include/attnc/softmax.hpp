#pragma once
// softmax: y = softmax(x) over channels.
//
// Shapes   x, y [rows, channels] in tiles of L channels, both streams in (tile, row) order; lanes past `channels` count for nothing
//          and come out as 0.
// Types    XT signed; SumT holds a sum of `channels` probabilities; YT holds [low, high].
// Numbers  base 2, see exponential.hpp; one requantize to scores, one to outputs, both half up. The ROMs Exp2 and Division choose the
//          implementations of the exponential and of the division.
// Speed    L channels per cycle (II = 1); 2 * rows * tiles cycles, as rows are turned from (tile, row) to (row, tile) order and back.
// Source   two-pass cascade with a row buffer as in FuseMax.

#include "attnc/exponential.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/reciprocal.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct SoftmaxCall {
  int rows, channels, tiles, score_multiplier, score_shift, output_multiplier, output_shift, low, high;
  int vectors;  // rows * tiles
};

typedef Int<SCORE_BITS> softmax_score_t;

// Scores row by row and, after the last tile of a row, their maximum.
template <class XT, int TILES_MAX, int ROWS_MAX, int L>
void softmax_scores(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<softmax_score_t, L>>& scores, hls::stream<softmax_score_t>& maxima,
                    SoftmaxCall call) {
  static_assert(width<XT>::value <= 32, "softmax: inputs have at most 32 bits");
  static_assert(TILES_MAX * L <= 65536, "softmax: at most 65536 channels, so that a sum of probabilities has 32 bits");
  static Vec<XT, L> x_buffer[TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = x_buffer
#ifdef ATTNC_SOFTMAX_X_BUFFER
  ATTNC_BIND(x_buffer, ATTNC_SOFTMAX_X_BUFFER)
#endif
  int tile = 0, row = 0;
  ATTNC_LOOP(READ_X)
READ_X:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(READ_X)
    x_buffer[tile][row] = x.read();
    tile = row + 1 == call.rows ? tile + 1 : tile;
    row = row + 1 == call.rows ? 0 : row + 1;
  }
  const multiplier_t multiplier = multiplier_t(call.score_multiplier);
  const shift_t shift = shift_t(call.score_shift);
  softmax_score_t maximum = -SCORE_LIMIT;
  tile = 0;
  row = 0;
  ATTNC_LOOP(SCORES)
SCORES:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(SCORES)
    const Vec<XT, L> xs = x_buffer[tile][row];
    Vec<softmax_score_t, L> out;
    softmax_score_t largest = -SCORE_LIMIT;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const softmax_score_t score = softmax_score_t(requantize<XT>(xs.v[l], multiplier, shift, -SCORE_LIMIT, SCORE_LIMIT));
      out.v[l] = score;
      if (tile * L + l < call.channels && largest < score) largest = score;
    }
    maximum = tile == 0 || maximum < largest ? largest : maximum;
    scores.write(out);
    if (tile + 1 == call.tiles) maxima.write(maximum);
    row = tile + 1 == call.tiles ? row + 1 : row;
    tile = tile + 1 == call.tiles ? 0 : tile + 1;
  }
}

// Probabilities relative to the maximum and, after the last tile of a row, their sum.
template <class SumT, class Exp2, int TILES_MAX, int ROWS_MAX, int L>
void softmax_exponential(hls::stream<Vec<softmax_score_t, L>>& scores, hls::stream<softmax_score_t>& maxima,
                         hls::stream<Vec<probability_t, L>>& probabilities, hls::stream<SumT>& sums, SoftmaxCall call) {
  typedef Int<SCORE_BITS + 1> difference_t;
  softmax_score_t maximum = 0;
  SumT sum = 0;
  int tile = 0;
  ATTNC_LOOP(EXPONENTIAL)
EXPONENTIAL:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(EXPONENTIAL)
    if (tile == 0) maximum = maxima.read();
    const Vec<softmax_score_t, L> score = scores.read();
    Vec<probability_t, L> probability;
    SumT partial = 0;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      // Clamped at 0 for the lanes past `channels`, which may exceed the maximum.
      const difference_t difference = difference_t(maximum) - difference_t(score.v[l]);
      const probability_t value = exp2_negative<Exp2, difference_t>(difference < 0 ? difference_t(0) : difference);
      probability.v[l] = tile * L + l < call.channels ? value : probability_t(0);
      partial += SumT(probability.v[l]);
    }
    sum = tile == 0 ? partial : SumT(sum + partial);
    probabilities.write(probability);
    if (tile + 1 == call.tiles) sums.write(sum);
    tile = tile + 1 == call.tiles ? 0 : tile + 1;
  }
}

// A factor per row: reciprocal of its sum times the scale of the output.
template <class SumT, class Division, int ROWS_MAX>
void softmax_reciprocal(hls::stream<SumT>& sums, hls::stream<SoftmaxScale>& scales, SoftmaxCall call) {
  const multiplier_t multiplier = multiplier_t(call.output_multiplier);
  const shift_t shift = shift_t(call.output_shift);
  ATTNC_LOOP(RECIPROCAL)
RECIPROCAL:
  for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(RECIPROCAL)
    scales.write(SoftmaxDivision<Division>::template scale<SumT>(sums.read(), multiplier, shift));
  }
}

template <class YT, int TILES_MAX, int ROWS_MAX, int L>
void softmax_normalise(hls::stream<Vec<probability_t, L>>& probabilities, hls::stream<SoftmaxScale>& scales, hls::stream<Vec<YT, L>>& y,
                       SoftmaxCall call) {
  static_assert(width<YT>::value >= 16, "softmax: outputs have at least 16 bits");
  typedef Int<PROBABILITY_BITS + 2> factor_t;
  static Vec<YT, L> y_buffer[TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = y_buffer
#ifdef ATTNC_SOFTMAX_Y_BUFFER
  ATTNC_BIND(y_buffer, ATTNC_SOFTMAX_Y_BUFFER)
#endif
  SoftmaxScale scale = {0, 0};
  int tile = 0, row = 0;
  ATTNC_LOOP(NORMALISE)
NORMALISE:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(NORMALISE)
    if (tile == 0) scale = scales.read();
    const Vec<probability_t, L> probability = probabilities.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      out.v[l] = YT(requantize<factor_t>(factor_t(probability.v[l]), scale.multiplier, scale.shift, call.low, call.high));
    }
    y_buffer[tile][row] = out;
    row = tile + 1 == call.tiles ? row + 1 : row;
    tile = tile + 1 == call.tiles ? 0 : tile + 1;
  }
  tile = 0;
  row = 0;
  ATTNC_LOOP(WRITE_Y)
WRITE_Y:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
    ATTNC_TICK(WRITE_Y)
    y.write(y_buffer[tile][row]);
    tile = row + 1 == call.rows ? tile + 1 : tile;
    row = row + 1 == call.rows ? 0 : row + 1;
  }
}

}  // namespace attnc
