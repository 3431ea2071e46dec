#pragma once
// layer_normalization: y = clamp((z*gamma[c] + beta[c]) / 2**shift), z = (x - mean) / sqrt(variance + epsilon) per row, or
// z = x / sqrt(mean square + epsilon).
//
// Shapes   x, y [rows, tiles*L] with `channels` channels, streams in (tile, row) order. Lanes beyond `channels` must be 0 in x
//          and are 0 in y, because gamma and beta are 0 there.
// Types    XT, YT signed integers; SumT, SquareT hold the sums of x and x*x of a row; VT holds V; DT holds channels*x - sum; ZT
//          holds z with 16 fraction bits; AccT holds z*gamma + beta; YT holds [low, high]. `Rom` starts the rsqrt.
// Method   S = sum x, or 0 where `centred` is 0 (root mean square), Q = sum x*x exactly; V = channels*Q - S*S + epsilon;
//          z = (channels*x - S) * rsqrt(V). Normalisation of groups of channels is a call per group.
// Weights  a stream of words, 8 per tile: word k holds byte k of every lane's record; a record is gamma s24, beta s40, little endian.
// Rounding z and y: half up. y saturates to [low, high].
// Speed    L values per cycle: a pass in, the statistics of a row per cycle, a pass out; a tile takes at least 8 cycles per pass.

#include "attnc/fixedpoint.hpp"
#include "attnc/rsqrt.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

static constexpr int NORM_Z_BITS = 16;  // fraction bits of z
static constexpr int NORM_SLOTS = 8;    // cycles between two additions to the same row's sums; also words of a record

template <class SumT> struct NormRow {
  SumT sum;
  Rsqrt factor;
};

// Reads the block of rows and adds up S and Q of every row. The sums of one row are read and written NORM_SLOTS cycles apart at
// least, which leaves the adder its pipeline.
template <class XT, class SumT, class SquareT, int L, int TILES_MAX, int ROWS_MAX>
void norm_accumulate(hls::stream<Vec<XT, L>>& x, Vec<XT, L> (&buffer)[TILES_MAX][ROWS_MAX], SumT (&sums)[ROWS_MAX],
                     SquareT (&squares)[ROWS_MAX], int rows, int tiles) {
  const int slots = rows > NORM_SLOTS ? rows : NORM_SLOTS;
NORM_TILES:
  for (int tile = 0; tile < tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = TILES_MAX
  NORM_ACCUMULATE:
    for (int row = 0; row < slots; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 8 max = ROWS_MAX
#pragma HLS DEPENDENCE variable = sums inter RAW distance = 8 true
#pragma HLS DEPENDENCE variable = squares inter RAW distance = 8 true
      if (row < rows) {
        const Vec<XT, L> in = x.read();
        buffer[tile][row] = in;
        SumT sum = 0;
        SquareT square = 0;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          sum += SumT(in.v[l]);
          square += SquareT(Int<32>(in.v[l]) * Int<32>(in.v[l]));
        }
        sums[row] = SumT((tile == 0 ? SumT(0) : sums[row]) + sum);
        squares[row] = SquareT((tile == 0 ? SquareT(0) : squares[row]) + square);
      }
    }
  }
}

template <class XT, class SumT, class DT, class ZT, class AccT, class YT, int L, int TILES_MAX, int ROWS_MAX>
void norm_scale(const Vec<XT, L> (&buffer)[TILES_MAX][ROWS_MAX], const NormRow<SumT> (&stats)[ROWS_MAX], hls::stream<Word<L>>& w,
                hls::stream<Vec<YT, L>>& y, int rows, int tiles, int channels, int shift, int low, int high) {
  typedef Int<width<DT>::value + 19> product_t;
  UInt<24> gamma[2][L];
#pragma HLS ARRAY_PARTITION variable = gamma dim = 0 complete
  UInt<40> beta[2][L];
#pragma HLS ARRAY_PARTITION variable = beta dim = 0 complete
  const int slots = rows > NORM_SLOTS ? rows : NORM_SLOTS;

  // Tile -1 gives nothing: it reads the records of tile 0.
SCALE_TILES:
  for (int tile = -1; tile < tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = TILES_MAX + 1
    const bool passing = tile >= 0;
    const bool loading = tile + 1 < tiles;
    const int trips = passing ? slots : NORM_SLOTS;
  SCALE_ROWS:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 8 max = ROWS_MAX
      if (loading && i < NORM_SLOTS) {
        const Word<L> word = w.read();
        const int next = (tile + 1) & 1;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          // The first byte clears what is left of the record before.
          if (i < 3) {
            gamma[next][l] = UInt<24>((i == 0 ? UInt<24>(0) : gamma[next][l]) | UInt<24>(UInt<24>(word.v[l]) << (8 * i)));
          } else {
            beta[next][l] = UInt<40>((i == 3 ? UInt<40>(0) : beta[next][l]) | UInt<40>(UInt<40>(word.v[l]) << (8 * (i - 3))));
          }
        }
      }
      if (passing && i < rows) {
        const Vec<XT, L> in = buffer[tile][i];
        const NormRow<SumT> row = stats[i];
        const shift_t z_shift = shift_t(17 - NORM_Z_BITS + int(row.factor.exponent));
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          const DT centred = DT(DT(in.v[l]) * DT(channels) - DT(row.sum));
          const product_t product = product_t(centred) * product_t(row.factor.mantissa);
          const ZT z = ZT(shift_round_half_up<product_t>(product, z_shift));
          // Sign extension by hand: a built-in integer is wider than its name says.
          const AccT g = AccT(AccT(gamma[tile & 1][l] & UInt<24>(0x7fffff)) - AccT(gamma[tile & 1][l] & UInt<24>(0x800000)));
          const UInt<40> sign = UInt<40>(UInt<40>(1) << 39);
          const AccT b = AccT(AccT(beta[tile & 1][l] & UInt<40>(sign - 1)) - AccT(beta[tile & 1][l] & sign));
          const AccT rounded = shift_round_half_up<AccT>(AccT(AccT(z) * g + b), shift_t(shift));
          out.v[l] = YT(clamp<AccT>(rounded, AccT(low), AccT(high)));
        }
        y.write(out);
      }
    }
  }
}

template <class XT, class SumT, class SquareT, class VT, class DT, class ZT, class AccT, class YT, class Rom, int L, int TILES_MAX,
          int ROWS_MAX>
void layer_normalization(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, int rows, int tiles,
                         int channels, int centred, int epsilon_low, int epsilon_high, int shift, int low, int high) {
  static_assert(width<YT>::value >= 16, "layer_normalization: outputs have at least 16 bits");
  static_assert(width<XT>::value <= 16, "layer_normalization: inputs have at most 16 bits");
  static_assert(width<AccT>::value >= 42, "layer_normalization: AccT must hold beta, a product and a rounding bit");
  static Vec<XT, L> buffer[TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = buffer
#ifdef ATTNC_LAYER_NORMALIZATION_BUFFER
  ATTNC_BIND(buffer, ATTNC_LAYER_NORMALIZATION_BUFFER)
#endif
  SumT sums[ROWS_MAX];
  SquareT squares[ROWS_MAX];
  NormRow<SumT> stats[ROWS_MAX];
  const VT epsilon = VT((VT(epsilon_high) << 31) + VT(epsilon_low));

  norm_accumulate<XT, SumT, SquareT, L, TILES_MAX, ROWS_MAX>(x, buffer, sums, squares, rows, tiles);
NORM_STATISTICS:
  for (int row = 0; row < rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    stats[row].sum = centred ? sums[row] : SumT(0);
    const VT sum = VT(stats[row].sum);
    const VT variance = VT(VT(channels) * VT(squares[row]) - VT(sum * sum) + epsilon);
    stats[row].factor = rsqrt<VT, Rom>(variance);
  }
  norm_scale<XT, SumT, DT, ZT, AccT, YT, L, TILES_MAX, ROWS_MAX>(buffer, stats, w, y, rows, tiles, channels, shift, low, high);
}

}  // namespace attnc
