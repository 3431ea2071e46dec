#pragma once
// mask_bias: the bias of attention from numbers and a mask: y = clamp(requantize(x) + mask, +-32766), or the mask itself where that is
// below -32766: such numbers exclude a key, or take the place of its score.
//
// Shapes   x, y [rows, tiles*L]; mask the same. Streams in (tile, row) order.
// Types    XT signed; MT, YT signed of 16 bits at least.
// Rounding requantize: half up; saturation. Zeros give zero, so padding lanes stay 0.
// Speed    L values per cycle (II = 1).

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct MaskBiasCall {
  int rows, tiles, multiplier, shift;
  int vectors;  // rows * tiles
};

template <class XT, class MT, class YT, int L>
void mask_bias(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<MT, L>>& mask, hls::stream<Vec<YT, L>>& y, MaskBiasCall call) {
  static_assert(width<MT>::value >= 16 && width<YT>::value >= 16, "mask_bias: masks and outputs have at least 16 bits");
  static constexpr int LIMIT = 32766;
  ATTNC_LOOP(MASK_BIAS)
MASK_BIAS:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(MASK_BIAS)
    const Vec<XT, L> in = x.read();
    const Vec<MT, L> added = mask.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      // Anything beyond twice the limit saturates whatever the mask adds.
      const Int<18> bias = Int<18>(requantize<XT>(in.v[l], multiplier_t(call.multiplier), shift_t(call.shift), -2 * LIMIT, 2 * LIMIT));
      const Int<18> sum = Int<18>(bias + Int<18>(added.v[l]));
      out.v[l] = added.v[l] < -LIMIT ? YT(added.v[l]) : YT(clamp<Int<18>>(sum, Int<18>(-LIMIT), Int<18>(LIMIT)));
    }
    y.write(out);
  }
}

}  // namespace attnc
