#pragma once
// layer_normalization: y = clamp((z*gamma[c] + beta[c]) / 2**shift), z = (x - mean) / sqrt(variance + epsilon) per row, or
// z = x / sqrt(mean square + epsilon).
//
// Shapes   x, y [rows, tiles*L] with `channels` channels, streams in (tile, row) order. Lanes beyond `channels` must be 0 in x
//          and are 0 in y, because gamma and beta are 0 there.
// Types    XT, YT signed integers; CountT holds `channels`; SumT, SquareT hold the sums of x and x*x of a row; VT holds V; DT holds channels*x - sum; ZT
//          holds z with 16 fraction bits; AccT holds z*gamma + beta, |z*gamma + beta| < 2**62; YT holds [low, high]. `Rom` starts the
//          rsqrt.
// Method   S = sum x, or 0 where `centred` is 0 (root mean square), Q = sum x*x exactly; V = channels*Q - S*S + epsilon;
//          z = (channels*x - S) * rsqrt(V) = x * factor + offset with two numbers per row, which takes one multiplier per lane.
//          Normalisation of groups of channels is a call per group. With `together` all rows have the statistics of all of them, and
//          `channels` counts the elements of all; each of the tiles may then hold other rows of the tensor.
// Weights  a stream of words, 8 per tile, or 3 where `centred` is 0: word k holds byte k of every lane's record; a record is gamma s24 (of
//          18 bits), little endian, and beta s40, which is 0 where it does not come.
// Rounding z and y: half up. y saturates to [low, high].
// Speed    L values per cycle: a pass in, the statistics of a row per cycle, a pass out. A tile takes at least 8 cycles on its way in, but for a
//          row that is alone, which has 8 sums, of every 8th tile each; and at least as many on its way out as its records have words.

#include "attnc/fixedpoint.hpp"
#include "attnc/rsqrt.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct LayerNormalizationCall {
  int rows, tiles, channels, centred, together, epsilon_low, epsilon_high, shift, low, high;
  int lone, words;                     // whether there is one row; words of a record
  int accumulated, totalled, scaled;  // iterations: of the pass in, of what adds up sums, of the pass out behind the first record
};

static constexpr int NORM_Z_BITS = 16;  // fraction bits of z
static constexpr int NORM_SLOTS = 8;    // cycles between two additions to the same sums; also the most words of a record

// z of a row is (x*factor + offset) / 2**shift, rounded down: the half that rounds it is in the offset.
template <class FactorT, class OffsetT> struct NormRow {
  FactorT factor;
  OffsetT offset;
  shift_t shift;
};

// Reads the block of rows and adds up S and Q of every row, or of every NORM_SLOTS-th tile of a row that is alone. Sums are read and written
// NORM_SLOTS cycles apart at least, which leaves the adder its pipeline.
template <class XT, class SumT, class SquareT, int L, int TILES_MAX, int ROWS_MAX, int SUMS>
void norm_accumulate(hls::stream<Vec<XT, L>>& x, Vec<XT, L> (&buffer)[TILES_MAX][ROWS_MAX], SumT (&sums)[SUMS], SquareT (&squares)[SUMS],
                     LayerNormalizationCall call) {
  const bool lone = call.lone != 0;
  const int slots = lone ? 1 : max_of(call.rows, NORM_SLOTS);
  int tile = 0, row = 0;
  ATTNC_LOOP(NORM_ACCUMULATE)
NORM_ACCUMULATE:
  for (int i = 0; i < call.accumulated; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX * ROWS_MAX
#pragma HLS DEPENDENCE variable = sums inter RAW distance = 8 true
#pragma HLS DEPENDENCE variable = squares inter RAW distance = 8 true
    ATTNC_TICK(NORM_ACCUMULATE)
    if (row < call.rows) {
      const Vec<XT, L> in = x.read();
      buffer[tile][row] = in;
      SumT sum = 0;
      SquareT square = 0;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        sum += SumT(in.v[l]);
        square += SquareT(Int<32>(in.v[l]) * Int<32>(in.v[l]));
      }
      const int at = lone ? tile % NORM_SLOTS : row;
      const bool first = tile < (lone ? NORM_SLOTS : 1);
      sums[at] = SumT((first ? SumT(0) : sums[at]) + sum);
      squares[at] = SquareT((first ? SquareT(0) : squares[at]) + square);
    }
    tile = row + 1 == slots ? tile + 1 : tile;
    row = row + 1 == slots ? 0 : row + 1;
  }
}

// The integer of `COUNT` bytes of a record, from byte FIRST on.
template <class T, int FIRST, int COUNT> T norm_integer(const UInt<8> (&bytes)[NORM_SLOTS]) {
#pragma HLS INLINE
  // The sign comes with the last byte; a product, since C++ leaves the shift of a negative number undefined.
  T value = T(T(Int<8>(bytes[FIRST + COUNT - 1])) * T(T(1) << (8 * (COUNT - 1))));
  for (int k = 0; k < COUNT - 1; ++k) {
#pragma HLS UNROLL
    value = T(value + T(T(bytes[FIRST + k]) << (8 * k)));
  }
  return value;
}

template <class XT, class RowT, class OffsetT, class ZT, class AccT, class YT, int L, int TILES_MAX, int ROWS_MAX>
void norm_scale(const Vec<XT, L> (&buffer)[TILES_MAX][ROWS_MAX], const RowT (&stats)[ROWS_MAX], hls::stream<Word<L>>& w,
                hls::stream<Vec<YT, L>>& y, LayerNormalizationCall call) {
  // Bytes, so that each is written as it comes.
  UInt<8> record[2][NORM_SLOTS][L];
#pragma HLS ARRAY_PARTITION variable = record dim = 0 complete
  const int slots = max_of(call.rows, call.words);
  const AccT kept = kept_by<YT, AccT>(shift_t(call.shift));

  // Tile -1 gives nothing: it reads the records of tile 0.
  int tile = -1, at = 0;
  ATTNC_LOOP(SCALE_ROWS)
SCALE_ROWS:
  for (int i = 0; i < call.words + call.scaled; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 6 max = NORM_SLOTS + TILES_MAX * ROWS_MAX
    ATTNC_TICK(SCALE_ROWS)
    if (tile + 1 < call.tiles && at < call.words) {
      const Word<L> word = w.read();
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        record[(tile + 1) & 1][at][l] = word.v[l];
      }
    }
    if (tile >= 0 && at < call.rows) {
      const Vec<XT, L> in = buffer[tile][at];
      const RowT row = stats[at];
      Vec<YT, L> out;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        UInt<8> bytes[NORM_SLOTS];
        for (int k = 0; k < NORM_SLOTS; ++k) {
#pragma HLS UNROLL
          bytes[k] = record[tile & 1][k][l];
        }
        const ZT z = narrow_shift<ZT, OffsetT>(OffsetT(OffsetT(in.v[l]) * OffsetT(row.factor) + row.offset), row.shift);
        const Int<18> gamma = Int<18>(norm_integer<Int<24>, 0, 3>(bytes));
        const Int<40> beta = call.words > 3 ? norm_integer<Int<40>, 3, 5>(bytes) : Int<40>(0);
        out.v[l] = shift_clamp<YT, AccT>(AccT(AccT(z) * AccT(gamma) + AccT(beta)), shift_t(call.shift), kept, YT(call.low), YT(call.high));
      }
      y.write(out);
    }
    const bool ends = at + 1 == (tile < 0 ? call.words : slots);
    tile = ends ? tile + 1 : tile;
    at = ends ? 0 : at + 1;
  }
}

template <class XT, class CountT, class SumT, class SquareT, class VT, class DT, class ZT, class AccT, class YT, class Rom, int L,
          int TILES_MAX, int ROWS_MAX>
void layer_normalization(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, LayerNormalizationCall call) {
  static_assert(width<YT>::value >= 16, "layer_normalization: outputs have at least 16 bits");
  static_assert(width<XT>::value <= 16, "layer_normalization: inputs have at most 16 bits");
  static_assert(width<AccT>::value >= 42, "layer_normalization: AccT must hold beta, a product and a rounding bit");
  typedef Int<width<CountT>::value - 1 + width<rsqrt_mantissa_t>::value> factor_t;
  // Holds (channels*x - S) * mantissa with room for the half, which is at most 2**30.
  typedef Int<max_of(width<DT>::value + 19, 33)> offset_t;
  typedef NormRow<factor_t, offset_t> row_t;
  static Vec<XT, L> buffer[TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_LAYER_NORMALIZATION_BUFFER
  ATTNC_BIND(buffer, ATTNC_LAYER_NORMALIZATION_BUFFER)
#endif
  static const int SUMS = max_of(ROWS_MAX, NORM_SLOTS);
  SumT sums[SUMS];
  SquareT squares[SUMS];
  row_t stats[ROWS_MAX];
  const VT epsilon = VT((VT(call.epsilon_high) << 31) + VT(call.epsilon_low));
  const CountT count = CountT(call.channels);

  norm_accumulate<XT, SumT, SquareT, L, TILES_MAX, ROWS_MAX, SUMS>(x, buffer, sums, squares, call);
  SumT total = 0;
  SquareT total_square = 0;
  if (call.totalled > 0) {
    ATTNC_LOOP(NORM_TOTAL)
  NORM_TOTAL:
    for (int at = 0; at < call.totalled; ++at) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = SUMS
      ATTNC_TICK(NORM_TOTAL)
      total += sums[at];
      total_square += squares[at];
    }
  }
  ATTNC_LOOP(NORM_STATISTICS)
NORM_STATISTICS:
  for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(NORM_STATISTICS)
    const SumT own = call.totalled > 0 ? total : sums[row];
    const SumT sum = call.centred ? own : SumT(0);
    const SquareT square = call.totalled > 0 ? total_square : squares[row];
    const VT variance = VT(VT(count) * VT(square) - VT(VT(sum) * VT(sum)) + epsilon);
    const Rsqrt root = rsqrt<VT, Rom>(variance);
    const offset_t half = offset_t(offset_t(1) << int(root.exponent));
    stats[row].factor = factor_t(factor_t(count) * factor_t(root.mantissa));
    stats[row].offset = offset_t(half - offset_t(sum) * offset_t(root.mantissa));
    stats[row].shift = shift_t(17 - NORM_Z_BITS + int(root.exponent));
  }
  norm_scale<XT, row_t, offset_t, ZT, AccT, YT, L, TILES_MAX, ROWS_MAX>(buffer, stats, w, y, call);
}

}  // namespace attnc
