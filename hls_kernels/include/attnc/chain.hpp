#pragma once
// What links the kernels of a chain: vectors that pass a kernel by, that change their type on the way, or that are stored too.
//
// Shapes   control.vectors vectors of L elements, in the order in which they come.
// Types    no element changes its value: where OutT is narrower than InT, elements fit it.
// Speed    II = 1.

#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

// What an instruction says of a kernel of a chain: whether it works, how many vectors arrive, whether they are stored too.
struct SlotControl {
  int active, vectors, tapped;
};

template <class InT, class OutT, int L> void forward(hls::stream<Vec<InT, L>>& in, hls::stream<Vec<OutT, L>>& out, SlotControl control) {
  ATTNC_LOOP(FORWARD)
FORWARD:
  for (int i = 0; i < control.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 0 max = 4096
    ATTNC_TICK(FORWARD)
    const Vec<InT, L> vec = in.read();
    Vec<OutT, L> copy;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      copy.v[l] = OutT(vec.v[l]);
    }
    out.write(copy);
  }
}

// To `out`, and to `tap` as well where that is asked for.
template <class T, int L>
void tee(hls::stream<Vec<T, L>>& in, hls::stream<Vec<T, L>>& out, hls::stream<Vec<T, L>>& tap, SlotControl control) {
  ATTNC_LOOP(TEE)
TEE:
  for (int i = 0; i < control.vectors; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 0 max = 4096
    ATTNC_TICK(TEE)
    const Vec<T, L> vec = in.read();
    out.write(vec);
    if (control.tapped != 0) tap.write(vec);
  }
}

}  // namespace attnc
