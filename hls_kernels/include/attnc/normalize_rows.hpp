#pragma once
// normalize_rows: y[row, c] = clamp(x[row, c] / peak[row] * multiplier / 2**shift), rounded half up; 0 where the peak is not positive.
//
// Shapes   x, y [rows, tiles*L] in (tile, row) order; peak [rows, L], read first, in lane 0.
// Types    XT, PeakT, YT signed integers of at most, and YT of at least, 16 bits; limit is at most 127.
// Method   peak = mantissa / 2**left with 15 bits of mantissa; factor = (multiplier * 2**15 + mantissa/2) / mantissa, one division per row;
//          y = x * factor / 2**(shift + 15 - left).
// Rounding the factor and y half up; y saturates to +-limit. Zeros give zero, so padding lanes stay 0.
// Speed    a row per cycle for the reciprocals, then L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct NormalizeRowsCall {
  int rows, tiles, multiplier, shift, limit;
  int vectors;  // rows * tiles
};

static constexpr int PEAK_BITS = 15;
typedef Int<MULTIPLIER_BITS + 2> row_factor_t;

struct RowScale {
  row_factor_t factor;
  shift_t shift;
};

// multiplier / 2^shift / peak.
template <class PeakT> RowScale reciprocal(PeakT peak, multiplier_t multiplier, shift_t shift) {
#pragma HLS INLINE
  typedef UInt<MULTIPLIER_BITS + PEAK_BITS + 1> quotient_t;
  const bool usable = peak > 0;
  const UInt<PEAK_BITS> positive = usable ? UInt<PEAK_BITS>(peak) : UInt<PEAK_BITS>(1);
  const int left = PEAK_BITS - bit_length(positive);
  const UInt<PEAK_BITS> mantissa = UInt<PEAK_BITS>(positive << left);
  const quotient_t numerator = quotient_t((quotient_t(multiplier) << PEAK_BITS) + quotient_t(mantissa >> 1));
  RowScale scale;
  scale.factor = usable ? row_factor_t(numerator / quotient_t(mantissa)) : row_factor_t(0);
  scale.shift = shift_t(int(shift) + PEAK_BITS - left);
  return scale;
}

template <class XT, class PeakT, class YT, int L, int ROWS_MAX>
void normalize_rows(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<PeakT, L>>& peak, hls::stream<Vec<YT, L>>& y, NormalizeRowsCall call) {
  static_assert(width<XT>::value <= 16 && width<PeakT>::value <= 16, "normalize_rows: inputs have at most 16 bits");
  static_assert(width<YT>::value >= 16, "normalize_rows: outputs have at least 16 bits");
  typedef Int<width<XT>::value + MULTIPLIER_BITS + 3> product_t;
  RowScale scales[ROWS_MAX];

  ATTNC_LOOP(RECIPROCALS)
RECIPROCALS:
  for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
    ATTNC_TICK(RECIPROCALS)
    scales[row] = reciprocal<PeakT>(peak.read().v[0], multiplier_t(call.multiplier), shift_t(call.shift));
  }
  int row = 0;
  ATTNC_LOOP(NORMALIZE_ROWS)
NORMALIZE_ROWS:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(NORMALIZE_ROWS)
    const Vec<XT, L> in = x.read();
    const RowScale scale = scales[row];
    const product_t kept = kept_by<Int<8>, product_t>(scale.shift);
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const product_t product = product_t(in.v[l]) * product_t(scale.factor);
      out.v[l] = YT(shift_clamp<Int<8>, product_t>(product, scale.shift, kept, Int<8>(-call.limit), Int<8>(call.limit)));
    }
    y.write(out);
    row = row + 1 == call.rows ? 0 : row + 1;
  }
}

}  // namespace attnc
