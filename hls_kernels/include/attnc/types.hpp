#pragma once
// Integer types, vectors and words shared by all kernels.
//
// Int<W> / UInt<W> are the types in which every width is declared. For synthesis they are ap_int<W> / ap_uint<W>; with
// ATTNC_NATIVE_TYPES (fast simulation) the narrowest built-in integer of at least W bits. Results are equal, because the
// compiler proves that no value exceeds its declared width.

#include <cstdint>

#ifndef ATTNC_NATIVE_TYPES
#include <ap_int.h>
#endif

namespace attnc {

#ifdef ATTNC_NATIVE_TYPES
namespace native {
template <int Bytes> struct Integer;
template <> struct Integer<1> { typedef std::int8_t s; typedef std::uint8_t u; };
template <> struct Integer<2> { typedef std::int16_t s; typedef std::uint16_t u; };
template <> struct Integer<4> { typedef std::int32_t s; typedef std::uint32_t u; };
template <> struct Integer<8> { typedef std::int64_t s; typedef std::uint64_t u; };
constexpr int bytes(int width) { return width <= 8 ? 1 : width <= 16 ? 2 : width <= 32 ? 4 : 8; }
}  // namespace native
template <int W> using Int = typename native::Integer<native::bytes(W)>::s;
template <int W> using UInt = typename native::Integer<native::bytes(W)>::u;
template <class T> struct width { static constexpr int value = 8 * sizeof(T); };
#else
template <int W> using Int = ap_int<W>;
template <int W> using UInt = ap_uint<W>;
template <class T> struct width;
template <int W> struct width<ap_int<W>> { static constexpr int value = W; };
template <int W> struct width<ap_uint<W>> { static constexpr int value = W; };
#endif

// Where a buffer lies: bram, uram or lutram. The emitted code defines ATTNC_<KERNEL>_<BUFFER>; without it the tool decides.
#define ATTNC_PRAGMA(text) _Pragma(#text)
#define ATTNC_BIND_STORAGE(text) ATTNC_PRAGMA(text)
#define ATTNC_BIND(name, place) ATTNC_BIND_STORAGE(HLS BIND_STORAGE variable = name type = ram_s2p impl = place)

// Ceiling of log2: bits that count n different values.
constexpr int clog2(int n) { return n <= 1 ? 0 : 1 + clog2((n + 1) / 2); }
constexpr int max_of(int a, int b) { return a > b ? a : b; }

// For synthesis vectors are aligned to their size, as the vendor's hls::vector is, where that is a power of two: memory ports move words of one
// alignment in bursts. In simulation they lie in standard containers, which align nothing to more than 16 bytes.
#ifdef __SYNTHESIS__
constexpr int alignment(int bytes) { return (bytes & (bytes - 1)) == 0 ? bytes : 0; }
#define ATTNC_ALIGNED(bytes) alignas(alignment(bytes))
#else
#define ATTNC_ALIGNED(bytes)
#endif

template <class T, int N> struct ATTNC_ALIGNED(N * sizeof(T)) Vec {
  static_assert(N > 0 && (N & (N - 1)) == 0, "Vec: the number of lanes must be a power of two");
  T v[N];
};

// Lane first + l of a vector, l < S, where `first` is a multiple of S: so it is chosen among N / S lanes and not among all of them.
template <int S, class T, int N> T lane_of(const Vec<T, N>& vec, int first, int l) {
#pragma HLS INLINE
  T found = vec.v[l];
  for (int from = S; from < N; from += S) {
#pragma HLS UNROLL
    if (from == first) found = vec.v[from + l];
  }
  return found;
}

// One beat of memory: L bytes.
template <int L> using Word = Vec<UInt<8>, L>;

}  // namespace attnc
