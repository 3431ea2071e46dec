#pragma once
// unary_chord: y = requantize(f(x)), f piecewise linear from a ROM.
//
// Shapes   x, y [rows, tiles*L], streams in (tile, row) order; the lanes of the last tile beyond `channels` give 0, whatever f(0) is.
// Types    XT, YT signed integers; x has step + 5 fraction bits; AccT holds f in units of 2**-(16 + step); YT holds [low, high].
// Method   segments of 1/32 (2**step codes) over [-Rom::size/64, Rom::size/64); outside, f goes on with slope `left` or `right`
//          (0 or 1). A ROM entry is base * 2**14 + (delta + 2**13): f at the start of the segment and its growth over the
//          segment, both in units of 2**-16. The interpolation is exact.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    L values per cycle (II = 1): a copy of the ROM per lane.

#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct UnaryChordCall {
  int rows, tiles, channels, step, left, right, multiplier, shift, low, high;
  int vectors;  // rows * tiles
};

// Not inlined: every lane is then an instance of its own, with a ROM of its own.
template <class Rom> Int<36> unary_chord_lookup(int index) {
#pragma HLS INLINE off
#pragma HLS PIPELINE II = 1
  return Int<36>(Rom::at(index));
}

template <class XT, class AccT, class Rom> AccT unary_chord_value(XT x, const UnaryChordCall& call) {
#pragma HLS INLINE
  const int half = Rom::size / 2;
  const int segment = int(x >> call.step) + half;
  const bool below = segment < 0, above = segment >= Rom::size;
  const int index = below ? 0 : above ? int(Rom::size) - 1 : segment;
  const Int<36> entry = unary_chord_lookup<Rom>(index);
  const Int<22> base = Int<22>(entry >> 14);
  const Int<14> delta = Int<14>(int(entry & Int<36>(0x3fff)) - (1 << 13));
  const int inside = int(x) & ((1 << call.step) - 1);
  const int along = below ? 0 : above ? 1 << call.step : inside;
  const int past = below && call.left ? int(x) + (half << call.step) : above && call.right ? int(x) - (half << call.step) : 0;
  typedef UInt<width<AccT>::value> bits_t;  // C++ leaves the shift of a negative number undefined
  const AccT start = AccT(bits_t(AccT(base)) << call.step), beyond = AccT(bits_t(AccT(past)) << 11);
  return AccT(start + AccT(delta) * AccT(along) + beyond);
}

template <class XT, class AccT, class YT, class Rom, int L>
void unary_chord(hls::stream<Vec<XT, L>>& x, hls::stream<Vec<YT, L>>& y, UnaryChordCall call) {
  static_assert(width<YT>::value >= 16, "unary_chord: outputs have at least 16 bits");
  static_assert(Rom::size % 64 == 0, "unary_chord: the ROM must cover [-n, n) in segments of 1/32");
  int row = 0, first = 0;
  ATTNC_LOOP(UNARY_CHORD)
UNARY_CHORD:
  for (int i = 0; i < call.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(UNARY_CHORD)
    const Vec<XT, L> in = x.read();
    Vec<YT, L> out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const AccT acc = unary_chord_value<XT, AccT, Rom>(in.v[l], call);
      const Int<32> q = requantize<AccT>(acc, multiplier_t(call.multiplier), shift_t(call.shift), call.low, call.high);
      out.v[l] = first + l < call.channels ? YT(q) : YT(0);
    }
    y.write(out);
    const bool last = row + 1 == call.rows;
    row = last ? 0 : row + 1;
    first = last ? first + L : first;
  }
}

}  // namespace attnc
