#pragma once
// The bias of attention as extra channels of queries and keys with a scale of their own, in place of a table:
//          bias(i, j) = (sum over c of a[i, c] * b[j, c]) * multiplier / 2^shift; mirrors attnc/ops/attention_channels.py.
//
// Stream   words: per head one with the scale (multiplier in bytes 0 to 2, shift in byte 3), then ceil(channels / (L/2)) words for each
//          query and for each key, L/2 channels of two bytes each, 0 beyond `channels`.
// Types    a, b signed, 16 bits, of at most 32766; the sum is exact (bias_sum_t).
// Rounding requantize (half up), once, to units of 2^bias_shift scores, saturated to +-BIAS_LIMIT: none excludes a key or replaces a score.
// Speed    PER_STEP channels per cycle for every query of a block (and lane of keys), II = 1, on multipliers of their own beside q . k.
// Source   FlashBias: what a bias of rank R adds is R channels.

#include "attnc/fixedpoint.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

static constexpr int BIAS_LIMIT = 32766;
typedef Int<16> bias_factor_t;
template <int CHANNELS_MAX> using bias_sum_t = Int<31 + clog2(CHANNELS_MAX)>;  // a product is below 2^30

// A row of factors is WORDS words of memory; of each, WIDTH channels are kept.
template <int CHANNELS_MAX, int PER_STEP, int L> struct BiasChannels {
  static_assert(CHANNELS_MAX >= 1 && CHANNELS_MAX <= 64, "attention: biases have 1 to 64 channels");
  static constexpr int PER_WORD = L / 2;
  static constexpr int WIDTH = CHANNELS_MAX < PER_WORD ? 1 << clog2(CHANNELS_MAX) : PER_WORD;
  static constexpr int WORDS = (CHANNELS_MAX + PER_WORD - 1) / PER_WORD;
  static_assert((PER_STEP & (PER_STEP - 1)) == 0 && PER_STEP <= WIDTH, "attention: channels per step must be a power of two within a word");
  typedef Vec<bias_factor_t, WIDTH> Factors;

  static Factors factors(const Word<L>& word) {
#pragma HLS INLINE
    Factors found;
    for (int c = 0; c < WIDTH; ++c) {
#pragma HLS UNROLL
      found.v[c] = bias_factor_t(UInt<16>(UInt<16>(UInt<16>(word.v[2 * c + 1]) << 8) | UInt<16>(word.v[2 * c])));
    }
    return found;
  }

  // The sum of the products of channels [first, first + PER_STEP) of a word; `first` is a multiple of PER_STEP.
  static bias_sum_t<CHANNELS_MAX> products(const Factors& a, const Factors& b, int first) {
#pragma HLS INLINE
    bias_sum_t<CHANNELS_MAX> sum = 0;
    for (int c = 0; c < PER_STEP; ++c) {
#pragma HLS UNROLL
      sum += bias_sum_t<CHANNELS_MAX>(lane_of<PER_STEP>(a, first, c) * lane_of<PER_STEP>(b, first, c));
    }
    return sum;
  }
};

struct BiasScale {
  multiplier_t multiplier;
  shift_t shift;
};

template <int L> BiasScale bias_scale(const Word<L>& word) {
#pragma HLS INLINE
  BiasScale scale;
  scale.multiplier = multiplier_t((UInt<32>(word.v[2]) << 16) | (UInt<32>(word.v[1]) << 8) | UInt<32>(word.v[0]));
  scale.shift = shift_t(word.v[3]);
  return scale;
}

}  // namespace attnc
