#pragma once
// linear: y = requantize(x . W^T + bias), one shared engine for every matrix of the model.
//
// Shapes   x [rows, k_tiles*L], W [n_tiles*L, k_tiles*L], y [rows, n_tiles*L]; every stream in (tile, row) order.
// Types    XT, WT signed integers; AccT holds bias plus any sum of products; YT holds [low, high].
// Weights  a stream of words, group after group of PE output channels: first PE records of 8 bytes (bias s32, multiplier u24,
//          shift u8, little endian), then PE rows of k_tiles words, one signed byte per weight.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    PE*L multiply-adds per cycle (II = 1). The next group is loaded while this one is computed, so a group takes
//          max(rows, PE) * k_tiles cycles plus its PE*8/L record words where rows < PE.
// Source   output-stationary tiling; one engine shared by all layers as in Edge-MoE.

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

// Bias, multiplier and shift of one output channel.
struct LinearRecord {
  Int<32> bias;
  multiplier_t multiplier;
  shift_t shift;
};

template <class XT, class WT, class AccT, int L, int PE, int K_TILES_MAX, int ROWS_MAX>
void linear_accumulate(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Word<L>>& records,
                       hls::stream<Vec<AccT, PE>>& sums, int rows, int k_tiles, int n_tiles) {
  static Vec<XT, L> x_buffer[K_TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = x_buffer
#ifdef ATTNC_LINEAR_X_BUFFER
  ATTNC_BIND(x_buffer, ATTNC_LINEAR_X_BUFFER)
#endif
  static Vec<WT, L> w_buffer[2][PE][K_TILES_MAX];
#pragma HLS AGGREGATE variable = w_buffer
#ifdef ATTNC_LINEAR_W_BUFFER
  ATTNC_BIND(w_buffer, ATTNC_LINEAR_W_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 2 complete
  const int groups = (n_tiles * L + PE - 1) / PE;
  const int record_words = PE * 8 / L;
  const int load_words = record_words + PE * k_tiles;
  const int steps = rows * k_tiles;

READ_X_TILES:
  for (int tile = 0; tile < k_tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = K_TILES_MAX
  READ_X:
    for (int row = 0; row < rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
      x_buffer[tile][row] = x.read();
    }
  }

  // Group -1 computes nothing: it loads group 0.
GROUPS:
  for (int group = -1; group < groups; ++group) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 64
    const bool computing = group >= 0;
    const bool loading = group + 1 < groups;
    const int busy = computing ? steps : 0;
    const int trips = loading && load_words > busy ? load_words : busy;
    int row = 0, k = 0, load_pe = 0, load_k = 0;
    AccT acc[PE];
#pragma HLS ARRAY_PARTITION variable = acc complete
  MULTIPLY:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
#pragma HLS DEPENDENCE variable = w_buffer inter false
      if (loading && i < load_words) {
        const Word<L> word = w.read();
        if (i < record_words) {
          records.write(word);
        } else {
          Vec<WT, L> weights;
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            weights.v[l] = WT(Int<8>(word.v[l]));
          }
          w_buffer[(group + 1) & 1][load_pe][load_k] = weights;
          load_k = load_k + 1 == k_tiles ? 0 : load_k + 1;
          load_pe = load_k == 0 ? load_pe + 1 : load_pe;
        }
      }
      if (i < busy) {
        const Vec<XT, L> xs = x_buffer[k][row];
        for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
          const Vec<WT, L> ws = w_buffer[group & 1][pe][k];
          AccT sum = k == 0 ? AccT(0) : acc[pe];
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            sum += AccT(xs.v[l]) * AccT(ws.v[l]);
          }
          acc[pe] = sum;
        }
        if (k + 1 == k_tiles) {
          Vec<AccT, PE> out;
          for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
            out.v[pe] = acc[pe];
          }
          sums.write(out);
          k = 0;
          ++row;
        } else {
          ++k;
        }
      }
    }
  }
}

template <class AccT, class YT, int L, int PE, int ROWS_MAX>
void linear_rescale(hls::stream<Word<L>>& records, hls::stream<Vec<AccT, PE>>& sums, hls::stream<Vec<YT, L>>& y, int rows,
                    int n_tiles, int low, int high) {
  static const int TILES = PE / L;
  const int groups = (n_tiles * L + PE - 1) / PE;
  static Vec<YT, L> y_buffer[TILES][ROWS_MAX];
#pragma HLS AGGREGATE variable = y_buffer
#ifdef ATTNC_LINEAR_Y_BUFFER
  ATTNC_BIND(y_buffer, ATTNC_LINEAR_Y_BUFFER)
#endif
  UInt<8> bytes[PE * 8];
#pragma HLS ARRAY_PARTITION variable = bytes complete
  LinearRecord record[PE];
#pragma HLS ARRAY_PARTITION variable = record complete

RESCALE_GROUPS:
  for (int group = 0; group < groups; ++group) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
  READ_RECORDS:
    for (int i = 0; i < PE * 8 / L; ++i) {
#pragma HLS PIPELINE II = 1
      const Word<L> word = records.read();
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        bytes[i * L + l] = word.v[l];
      }
    }
  DECODE_RECORDS:
    for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
      const UInt<8>* b = bytes + 8 * pe;
      record[pe].bias = Int<32>(UInt<32>(b[0]) | (UInt<32>(b[1]) << 8) | (UInt<32>(b[2]) << 16) | (UInt<32>(b[3]) << 24));
      record[pe].multiplier = multiplier_t(UInt<32>(b[4]) | (UInt<32>(b[5]) << 8) | (UInt<32>(b[6]) << 16));
      record[pe].shift = shift_t(b[7]);
    }
  RESCALE_ROWS:
    for (int row = 0; row < rows; ++row) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
      const Vec<AccT, PE> sum = sums.read();
    RESCALE:
      for (int tile = 0; tile < TILES; ++tile) {
#pragma HLS PIPELINE II = 1
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          const int pe = tile * L + l;
          const AccT biased = sum.v[pe] + AccT(record[pe].bias);
          out.v[l] = YT(requantize<AccT>(biased, record[pe].multiplier, record[pe].shift, low, high));
        }
        y_buffer[tile][row] = out;
      }
    }
  WRITE_TILES:
    for (int tile = 0; tile < TILES; ++tile) {
      if (group * TILES + tile < n_tiles) {
      WRITE_Y:
        for (int row = 0; row < rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
          y.write(y_buffer[tile][row]);
        }
      }
    }
  }
}

template <class XT, class WT, class AccT, class YT, int L, int PE, int K_TILES_MAX, int ROWS_MAX>
void linear(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Vec<YT, L>>& y, int rows, int k_tiles, int n_tiles,
            int low, int high) {
  static_assert(PE % L == 0, "linear: PE must be a multiple of the number of lanes L");
  static_assert(width<WT>::value == 8, "linear: weights are bytes");
  static_assert(width<YT>::value >= 16, "linear: outputs have at least 16 bits");
#pragma HLS DATAFLOW
  hls::stream<Word<L>> records("linear.records");
#pragma HLS STREAM variable = records depth = 2 * PE * 8 / L
  hls::stream<Vec<AccT, PE>> sums("linear.sums");
#pragma HLS STREAM variable = sums depth = 16
  linear_accumulate<XT, WT, AccT, L, PE, K_TILES_MAX, ROWS_MAX>(x, w, records, sums, rows, k_tiles, n_tiles);
  linear_rescale<AccT, YT, L, PE, ROWS_MAX>(records, sums, y, rows, n_tiles, low, high);
}

}  // namespace attnc
