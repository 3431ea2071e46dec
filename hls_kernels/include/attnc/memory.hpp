#pragma once
// Between memory and streams: a walk of four nested loops over vectors, the innermost one contiguous.
// Streams carry q, memory holds q + zero_point: `load` takes it off every element (of padding too), `store` puts it on.
//
// Memory is an array of words of L bytes. A vector is L signed elements of `bytes` bytes, so one word, or two: all low bytes, then all
// high bytes. Vector i of a tensor at word `offset` starts at word offset + i * bytes. II = 1 per word.
// Where a memory port is wide enough for two words per cycle, it is an array of such beats. Tensors start at even words.
// Elements of 4 bits (bytes = 0, caches): a vector is half a word, offset and strides count halves. In a half lane l < L / 2 is the lower
// part of byte l, lane l + L / 2 the upper one. A half is stored by itself, with the byte enables of the bus. SMALL: there are such.
//
// A run is what lies in a row: count[3] vectors. Up to REQUESTS runs are asked for before the first one arrives (`runs_ahead`), so that the
// latency of the memory is paid once per walk and not once per run: bursts are requested by hand (hls::burst_maxi, UG1399), since a tool
// infers them for the innermost loop alone. All runs are one pipelined loop.

#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_burst_maxi.h>
#include <hls_stream.h>

#ifndef __SYNTHESIS__
#include <cstdio>
#include <cstdlib>
#endif

namespace attnc {

static constexpr int REQUESTS = 16;  // in flight: num_read_outstanding and num_write_outstanding of the interfaces

// `runs` is count[0] * count[1] * count[2], `vectors` that times count[3].
struct Walk {
  int offset;
  int count[4];
  int stride[3];
  int bytes;
  int zero_point;
  int runs;
  int vectors;
};

// The first word of a run, and of the loops around it.
struct RunCursor {
  int first, first1, first0, i2, i1;
};

inline RunCursor first_run(const Walk& walk) {
#pragma HLS INLINE
  const RunCursor cursor = {walk.offset, walk.offset, walk.offset, 0, 0};
  return cursor;
}

// Words from one turn of loop `loop` to the next.
inline int step(const Walk& walk, int loop) {
#pragma HLS INLINE
  return walk.bytes == 2 ? 2 * walk.stride[loop] : walk.stride[loop];
}

// A walk is followed by additions alone: no multiplier finds an address.
inline RunCursor next_run(RunCursor cursor, const Walk& walk) {
#pragma HLS INLINE
  const bool ends2 = cursor.i2 + 1 == walk.count[2], ends1 = ends2 && cursor.i1 + 1 == walk.count[1];
  const int next0 = cursor.first0 + step(walk, 0), next1 = ends1 ? next0 : cursor.first1 + step(walk, 1);
  cursor.first = ends2 ? next1 : cursor.first + step(walk, 2);
  cursor.first1 = ends2 ? next1 : cursor.first1;
  cursor.first0 = ends1 ? next0 : cursor.first0;
  cursor.i1 = ends1 ? 0 : ends2 ? cursor.i1 + 1 : cursor.i1;
  cursor.i2 = ends2 ? 0 : cursor.i2 + 1;
  return cursor;
}

// Elements of a byte each.
template <class T, int L> Vec<T, L> from_bytes(const Word<L>& word, Int<16> zero) {
#pragma HLS INLINE
  static_assert(width<T>::value >= 8, "load: stream elements must have at least 8 bits");
  Vec<T, L> vec;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    vec.v[l] = T(Int<8>(word.v[l]) - zero);
  }
  return vec;
}

// Elements of two bytes.
template <class T, int L> Vec<T, L> from_halves(const Word<L>& low, const Word<L>& high, Int<16> zero) {
#pragma HLS INLINE
  Vec<T, L> vec;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    vec.v[l] = T(Int<16>(UInt<16>((UInt<16>(high.v[l]) << 8) | low.v[l])) - zero);
  }
  return vec;
}

// The number that 4 bits stand for, given as 0 to 15.
template <class T> T nibble(Int<8> bits) {
#pragma HLS INLINE
  return T(bits < 8 ? bits : Int<8>(bits - 16));
}

// Elements of 4 bits, from half `half` of a beat.
template <class T, int L, int W> Vec<T, L> from_nibbles(const Word<W * L>& beat, int half) {
#pragma HLS INLINE
  Vec<T, L> vec;
  for (int l = 0; l < L / 2; ++l) {
#pragma HLS UNROLL
    UInt<8> byte = 0;
    for (int h = 0; h < 2 * W; ++h) {
#pragma HLS UNROLL
      byte = h == half ? UInt<8>(beat.v[h * (L / 2) + l]) : byte;
    }
    vec.v[l] = nibble<T>(Int<8>(byte & 15));
    vec.v[l + L / 2] = nibble<T>(Int<8>(byte >> 4));
  }
  return vec;
}

// Beats that hold `count` halves of words from half `first` on.
template <int W> int beats_of_halves(int first, int count) {
#pragma HLS INLINE
  return (first + count - 1) / (2 * W) - first / (2 * W) + 1;
}

// Word `half` of a beat of W words.
template <int L, int W> Word<L> word_of(const Word<W * L>& beat, int half) {
#pragma HLS INLINE
  Word<L> word;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    word.v[l] = W == 1 || half == 0 ? beat.v[l] : beat.v[(W - 1) * L + l];
  }
  return word;
}

// Beats that hold `count` words from word `first` on; the first and the last may hold one word that is not asked for.
inline int beats_of(int first, int count) {
#pragma HLS INLINE
  return ((first + count + 1) >> 1) - (first >> 1);
}

// Runs of so many beats that are asked for ahead: what covers the latency, and no more, since what comes early for one stream keeps its
// port from others.
inline int runs_ahead(int beats) {
#pragma HLS INLINE
  return beats >= 128 ? 2 : beats >= 64 ? 3 : beats >= 32 ? 5 : beats >= 16 ? 9 : REQUESTS;
}

// Asks for a run of so many words, or halves of words.
template <int L, int W> void ask_vectors(hls::burst_maxi<Word<W * L>>& memory, int first, int words, bool small) {
#pragma HLS INLINE
  const int beats = small ? beats_of_halves<W>(first, words) : W == 1 ? words : beats_of(first, words);
  memory.read_request(first / (small ? 2 * W : W), beats);
}

// Vectors from memory in beats of W words. With W = 1 a vector of 16 bits takes two cycles, else every vector takes one.
template <class T, int L, int W, int SMALL = 0> void load(hls::burst_maxi<Word<W * L>> memory, Walk walk, hls::stream<Vec<T, L>>& out) {
  static_assert(W == 1 || W == 2, "load: a beat is one word or two");
  static_assert(SMALL == 0 || L % 2 == 0, "load: a word is two halves");
  const Int<16> zero = walk.zero_point;
  const bool wide = walk.bytes == 2, small = SMALL != 0 && walk.bytes == 0;
  const int words = wide ? 2 * walk.count[3] : walk.count[3], all = small ? (words + 1) >> 1 : words;
  const int in_run = W == 1 ? words : walk.count[3], steps = W == 1 && wide ? 2 * walk.vectors : walk.vectors;
  const int most = runs_ahead(W == 1 ? all : (all + 1) >> 1), ahead = walk.runs < most ? walk.runs : most;
  RunCursor ask = first_run(walk), take = ask;
  int asked = ahead, at = 0;
  ATTNC_LOOP(ASK_RUNS)
ASK_RUNS:
  for (int i = 0; i < ahead; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    ATTNC_TICK(ASK_RUNS)
    ask_vectors<L, W>(memory, ask.first, words, small);
    ask = next_run(ask, walk);
  }
  Word<W * L> beat = Word<W * L>();
  Word<L> low = Word<L>();
  ATTNC_LOOP(LOAD)
LOAD:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD)
    if (at == 0 && asked < walk.runs && i > 0) {
      ask_vectors<L, W>(memory, ask.first, words, small);
      ask = next_run(ask, walk);
      ++asked;
    }
    const int part = (take.first + at) & (2 * W - 1), half = W == 1 ? 0 : (take.first + at) & 1;
    const bool fresh = small ? part == 0 : W == 1 || wide || half == 0;
    if (fresh || at == 0) beat = memory.read();
    if (small) {
      out.write(from_nibbles<T, L, W>(beat, part));
    } else if (!wide) {
      out.write(from_bytes<T, L>(word_of<L, W>(beat, half), zero));
    } else if (W == 2) {
      out.write(from_halves<T, L>(word_of<L, W>(beat, 0), word_of<L, W>(beat, W - 1), zero));
    } else {
      if (at & 1) out.write(from_halves<T, L>(low, word_of<L, W>(beat, 0), zero));
      low = word_of<L, W>(beat, 0);
    }
    const bool ends = at + 1 == in_run;
    at = ends ? 0 : at + 1;
    if (ends) take = next_run(take, walk);
  }
}

// A walk through a cache of two precisions: in each turn of its one loop over tiles come bytes of the first rows, elements of 4 bits, bytes
// of what was recent, and last bytes as `own` says (the only ones where it is no such cache). An element of 4 bits there stands for 16 times as
// much, which is what bytes are, or with SCALES for as much as the scale of its token says: a byte m in lane 0 of a word of its own, read before
// anything else; c of 4 bits is then c * m / 7, rounded half up. Stretches may be empty, but not all of a walk.
struct MixedWalk {
  Walk own;
  int first_offset, first_count;
  int low_offset, low_count, low_stride;
  int recent_offset, recent_count;
  int scale_offset;
};

// What follows each other in memory, the same in every tile, `stride` further each time: where that begins which is to be asked for next, and
// where that which is taken.
struct Stretch {
  int ask, take, count, stride;
  bool low;
};

static constexpr int STRETCHES = 4;

// 256 m / 7; times c, it lies nearer to 256 c m / 7 than this lies to a tie.
typedef UInt<13> seventh_t;
inline seventh_t seventh(UInt<8> m) {
#pragma HLS INLINE
  return seventh_t((UInt<22>(m) * UInt<14>(9362) + 128) >> 8);
}

// Where one pointer is in what it brings of each tile, which has so many `kinds` of stretches. Of its elements of 4 bits `low_before` of a
// tile come before, and there are `low_count`.
struct MixedCursor {
  int kinds, runs, asked, asking, taking, at, low_before, low_count;
};

// That of vectors [first, first + count) of every tile, and its stretches that are not empty; `asked` are the runs to ask for ahead.
template <int W> MixedCursor mixed_start(const MixedWalk& walk, int first, int count, Stretch some[STRETCHES]) {
#pragma HLS INLINE
  const int stride = walk.own.stride[2];
  const Stretch all[STRETCHES] = {{walk.first_offset, walk.first_offset, walk.first_count, stride, false},
                                  {walk.low_offset, walk.low_offset, walk.low_count, walk.low_stride, true},
                                  {walk.recent_offset, walk.recent_offset, walk.recent_count, stride, false},
                                  {walk.own.offset, walk.own.offset, walk.own.count[3], stride, false}};
  MixedCursor cursor = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int i = 0; i < STRETCHES; ++i) {
#pragma HLS UNROLL
    some[i] = all[STRETCHES - 1];
  }
  int begin = -first;
  for (int i = 0; i < STRETCHES; ++i) {
#pragma HLS UNROLL
    const int end = begin + all[i].count, from = begin < 0 ? 0 : begin, to = end < count ? end : count;
    if (from < to) {
      const int start = all[i].take + from - begin;
      const Stretch part = {start, start, to - from, all[i].stride, all[i].low};
      some[cursor.kinds] = part;
      cursor.low_before = all[i].low ? from - begin : cursor.low_before;
      cursor.low_count = all[i].low ? to - from : cursor.low_count;
      ++cursor.kinds;
    }
    begin = end;
  }
  const int halves = cursor.low_count, most = runs_ahead(((count - halves + W - 1) / W + (halves + 2 * W - 1) / (2 * W)) >> 2);
  cursor.runs = walk.own.runs * cursor.kinds;
  cursor.asked = cursor.runs < most ? cursor.runs : most;
  return cursor;
}

template <int L, int W> void ask_stretch(hls::burst_maxi<Word<W * L>>& memory, Stretch some[STRETCHES], MixedCursor& cursor) {
#pragma HLS INLINE
  const Stretch stretch = some[cursor.asking];
  ask_vectors<L, W>(memory, stretch.ask, stretch.count, stretch.low);
  some[cursor.asking].ask += stretch.stride;
  cursor.asking = cursor.asking + 1 == cursor.kinds ? 0 : cursor.asking + 1;
}

// Scales of V tokens from word `place` on, which begin a beat where V > 1.
template <int L, int W, int V>
void take_scales(hls::burst_maxi<Word<W * L>>& memory, int place, bool begins, Word<W * L>& beat, seventh_t scales[V]) {
#pragma HLS INLINE
  const int half = V == W ? 0 : place & (W - 1);
  if (begins || half == 0) beat = memory.read();
  for (int v = 0; v < V; ++v) {
#pragma HLS UNROLL
    scales[v] = seventh(word_of<L, W>(beat, half + v).v[0]);
  }
}

// The next V vectors, as those from vector `lane` on of what comes at a time; where V > 1 they begin a beat or, of 4 bits, half of one.
template <class T, int L, int W, int S, int V, int DEPTH, bool SCALED>
void take_mixed(hls::burst_maxi<Word<W * L>>& memory, Stretch some[STRETCHES], MixedCursor& cursor, const seventh_t scales[DEPTH][V],
                int lane, bool first, Word<W * L>& beat, Vec<T, S * L>& vecs) {
#pragma HLS INLINE
  if (cursor.at == 0 && cursor.asked < cursor.runs && !first) {
    ask_stretch<L, W>(memory, some, cursor);
    ++cursor.asked;
  }
  const Stretch stretch = some[cursor.taking];
  const int place = stretch.take + cursor.at, part = place & (2 * W - 1), half = V == W ? 0 : place & (W - 1);
  if (cursor.at == 0 || (stretch.low ? part == 0 : half == 0)) beat = memory.read();
  for (int v = 0; v < V; ++v) {
#pragma HLS UNROLL
    const Vec<T, L> nibbles = from_nibbles<T, L, W>(beat, part + v), whole = from_bytes<T, L>(word_of<L, W>(beat, half + v), 0);
    const seventh_t scale = SCALED && stretch.low ? scales[cursor.at / V][v] : seventh_t(0);
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const Int<5> code = Int<5>(nibbles.v[l]);
      const T low = SCALED ? T((Int<19>(code * Int<14>(scale)) + 128) >> 8) : T(code * 16);
      vecs.v[(lane + v) * L + l] = stretch.low ? low : whole.v[l];
    }
  }
  const bool ends = cursor.at + V == stretch.count;
  cursor.at = ends ? 0 : cursor.at + V;
  if (ends) {
    some[cursor.taking].take += stretch.stride;
    cursor.taking = cursor.taking + 1 == cursor.kinds ? 0 : cursor.taking + 1;
  }
}

// S vectors at a time through N pointers, of which number n brings part n of every tile and at most SCALES scales. With S > 1 stretches are
// multiples of S vectors, and begin with a beat or, of elements of 4 bits, with half of one.
template <class T, int L, int W, int S, int N, int SCALES>
void move_mixed(hls::burst_maxi<Word<W * L>>& a, hls::burst_maxi<Word<W * L>>& b, MixedWalk walk, hls::stream<Vec<T, S * L>>& out) {
#pragma HLS INLINE
  static const int V = S / N, DEPTH = SCALES > 0 ? (SCALES + V - 1) / V : 1;
  static_assert((W == 1 || W == 2) && (N == 1 || N == 2), "load_mixed: a beat is one word or two, and comes through one pointer or two");
  static_assert(S == 1 || S == N * W, "load_mixed: each pointer brings the vectors of a beat, unless one vector comes at a time");
  static_assert(L % 2 == 0 && width<T>::value >= 8, "load_mixed: a word is two halves, and elements have at least 8 bits");
  const int part = (walk.first_count + walk.low_count + walk.recent_count + walk.own.count[3]) / N;
  Stretch of_a[STRETCHES], of_b[STRETCHES];
#pragma HLS ARRAY_PARTITION variable = of_a complete
#pragma HLS ARRAY_PARTITION variable = of_b complete
  MixedCursor at_a = mixed_start<W>(walk, 0, part, of_a), at_b = mixed_start<W>(walk, part, part, of_b);
  const int scales_a = SCALES > 0 ? at_a.low_count : 0, scales_b = SCALES > 0 && N > 1 ? at_b.low_count : 0;
  if (scales_a > 0) ask_vectors<L, W>(a, walk.scale_offset + at_a.low_before, scales_a, false);
  if (scales_b > 0) ask_vectors<L, W>(b, walk.scale_offset + at_b.low_before, scales_b, false);
  ATTNC_LOOP(ASK_STRETCHES)
ASK_STRETCHES:
  for (int i = 0; i < (N > 1 && at_b.asked > at_a.asked ? at_b.asked : at_a.asked); ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    ATTNC_TICK(ASK_STRETCHES)
    if (i < at_a.asked) ask_stretch<L, W>(a, of_a, at_a);
    if (N > 1 && i < at_b.asked) ask_stretch<L, W>(b, of_b, at_b);
  }
  Word<W * L> beat_a = Word<W * L>(), beat_b = beat_a;
  seventh_t kept_a[DEPTH][V], kept_b[DEPTH][V];
#pragma HLS ARRAY_PARTITION variable = kept_a complete dim = 2
#pragma HLS ARRAY_PARTITION variable = kept_b complete dim = 2
  ATTNC_LOOP(LOAD_SCALES)
LOAD_SCALES:
  for (int i = 0; i < (scales_b > scales_a ? scales_b : scales_a) / V; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_SCALES)
    const int place = walk.scale_offset + i * V;
    if (i * V < scales_a) take_scales<L, W, V>(a, place + at_a.low_before, i == 0, beat_a, kept_a[i]);
    if (i * V < scales_b) take_scales<L, W, V>(b, place + at_b.low_before, i == 0, beat_b, kept_b[i]);
  }
  ATTNC_LOOP(LOAD_MIXED)
LOAD_MIXED:
  for (int i = 0; i < walk.own.vectors / S; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_MIXED)
    Vec<T, S * L> vecs;
    take_mixed<T, L, W, S, V, DEPTH, (SCALES > 0)>(a, of_a, at_a, kept_a, 0, i == 0, beat_a, vecs);
    if (N > 1) take_mixed<T, L, W, S, V, DEPTH, (SCALES > 0)>(b, of_b, at_b, kept_b, S - V, i == 0, beat_b, vecs);
    out.write(vecs);
  }
}

template <class T, int L, int W, int S = 1, int SCALES = 0>
void load_mixed(hls::burst_maxi<Word<W * L>> a, MixedWalk walk, hls::stream<Vec<T, S * L>>& out) {
  move_mixed<T, L, W, S, 1, SCALES>(a, a, walk, out);
}

template <class T, int L, int W, int S, int SCALES = 0>
void load_mixed_2(hls::burst_maxi<Word<W * L>> a, hls::burst_maxi<Word<W * L>> b, MixedWalk walk, hls::stream<Vec<T, S * L>>& out) {
  move_mixed<T, L, W, S, 2, SCALES>(a, b, walk, out);
}

// S vectors of a run at a time, through N pointers that bring W each, which follow each other: pointer n of them part n of every run. A run
// is a multiple of S vectors, and begins with a beat or, of elements of 4 bits, with half of one. Bytes take a cycle, and so do 4 bits; 16
// bits take two.
template <class T, int L, int W, int S, int SMALL>
void take_vectors(hls::burst_maxi<Word<W * L>>& memory, bool wide, bool small, bool high, int half, bool fresh, Int<16> zero, int lane,
                  Word<W * L>& beat, Vec<T, S * L>& vecs) {
#pragma HLS INLINE
  const Word<W * L> before = beat;
  if (fresh) beat = memory.read();
  for (int w = 0; w < W; ++w) {
#pragma HLS UNROLL
    Vec<T, L> vec;
    if (SMALL != 0 && small) {
      vec = from_nibbles<T, L, W>(beat, half + w);
    } else if (!wide) {
      vec = from_bytes<T, L>(word_of<L, W>(beat, w), zero);
    } else {
      vec = from_halves<T, L>(word_of<L, W>(W == 1 ? before : beat, 0), word_of<L, W>(beat, W - 1), zero);
    }
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      if (!wide || W == 1 || high == (w == 1)) vecs.v[(lane + w) * L + l] = vec.v[l];
    }
  }
}

template <class T, int L, int W, int S, int N, int SMALL>
void move_vectors(hls::burst_maxi<Word<W * L>>& a, hls::burst_maxi<Word<W * L>>& b, Walk walk, hls::stream<Vec<T, S * L>>& out) {
#pragma HLS INLINE
  static_assert((W == 1 || W == 2) && S == N * W, "load_vectors: each pointer brings the vectors of a beat");
  static_assert(SMALL == 0 || L % 2 == 0, "load_vectors: a word is two halves");
  const Int<16> zero = walk.zero_point;
  const bool wide = walk.bytes == 2, small = SMALL != 0 && walk.bytes == 0;
  const int words = wide ? 2 * (walk.count[3] / N) : walk.count[3] / N, beats = small ? (words + 2 * W - 1) / (2 * W) : words / W;
  const int in_run = wide ? 2 * (walk.count[3] / S) : walk.count[3] / S, steps = wide ? 2 * (walk.vectors / S) : walk.vectors / S;
  const int most = runs_ahead(beats), ahead = walk.runs < most ? walk.runs : most;
  RunCursor ask = first_run(walk), take = ask;
  int asked = ahead, at = 0;
  ATTNC_LOOP(ASK_RUNS)
ASK_RUNS:
  for (int i = 0; i < ahead; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 16
    ATTNC_TICK(ASK_RUNS)
    ask_vectors<L, W>(a, ask.first, words, small);
    if (N > 1) ask_vectors<L, W>(b, ask.first + words, words, small);
    ask = next_run(ask, walk);
  }
  Word<W * L> beat_a = Word<W * L>(), beat_b = beat_a;
  Vec<T, S * L> vecs = Vec<T, S * L>();
  ATTNC_LOOP(LOAD_VECTORS)
LOAD_VECTORS:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_VECTORS)
    if (at == 0 && asked < walk.runs && i > 0) {
      ask_vectors<L, W>(a, ask.first, words, small);
      if (N > 1) ask_vectors<L, W>(b, ask.first + words, words, small);
      ask = next_run(ask, walk);
      ++asked;
    }
    const bool high = wide && (at & 1);
    const int half_a = (take.first + at * W) & (2 * W - 1), half_b = (take.first + words + at * W) & (2 * W - 1);
    take_vectors<T, L, W, S, SMALL>(a, wide, small, high, half_a, !small || half_a == 0 || at == 0, zero, 0, beat_a, vecs);
    if (N > 1) take_vectors<T, L, W, S, SMALL>(b, wide, small, high, half_b, !small || half_b == 0 || at == 0, zero, W, beat_b, vecs);
    if (!wide || high) out.write(vecs);
    const bool ends = at + 1 == in_run;
    at = ends ? 0 : at + 1;
    if (ends) take = next_run(take, walk);
  }
}

template <class T, int L, int W, int S, int SMALL = 0>
void load_vectors(hls::burst_maxi<Word<W * L>> a, Walk walk, hls::stream<Vec<T, S * L>>& out) {
  move_vectors<T, L, W, S, 1, SMALL>(a, a, walk, out);
}

template <class T, int L, int W, int S, int SMALL = 0>
void load_vectors_2(hls::burst_maxi<Word<W * L>> a, hls::burst_maxi<Word<W * L>> b, Walk walk, hls::stream<Vec<T, S * L>>& out) {
  move_vectors<T, L, W, S, 2, SMALL>(a, b, walk, out);
}

// What one loader brings for several streams, one after the other, is a run each: all are asked for before the first one comes.
template <int L, int W> void ask_run(hls::burst_maxi<Word<W * L>>& memory, const Walk& walk) {
#pragma HLS INLINE
  const int words = walk.bytes == 2 ? 2 * walk.count[3] : walk.count[3];
  if (words > 0) memory.read_request(walk.offset / W, W == 1 ? words : beats_of(walk.offset, words));
}

// Of vectors.
template <class T, int L, int W> void take_run(hls::burst_maxi<Word<W * L>>& memory, const Walk& walk, hls::stream<Vec<T, L>>& out) {
#pragma HLS INLINE
  const Int<16> zero = walk.zero_point;
  const bool wide = walk.bytes == 2;
  Word<W * L> beat = Word<W * L>();
  Word<L> low = Word<L>();
  ATTNC_LOOP(TAKE_RUN)
TAKE_RUN:
  for (int i = 0; i < (W == 1 && wide ? 2 * walk.count[3] : walk.count[3]); ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
    ATTNC_TICK(TAKE_RUN)
    const int half = W == 1 ? 0 : (walk.offset + i) & 1;
    if (W == 1 || wide || i == 0 || half == 0) beat = memory.read();
    if (!wide) {
      out.write(from_bytes<T, L>(word_of<L, W>(beat, half), zero));
    } else if (W == 2) {
      out.write(from_halves<T, L>(word_of<L, W>(beat, 0), word_of<L, W>(beat, W - 1), zero));
    } else {
      if (i & 1) out.write(from_halves<T, L>(low, word_of<L, W>(beat, 0), zero));
      low = word_of<L, W>(beat, 0);
    }
  }
}

// Of packed words.
template <int L, int W> void take_run_words(hls::burst_maxi<Word<W * L>>& memory, const Walk& walk, hls::stream<Word<L>>& out) {
#pragma HLS INLINE
  Word<W * L> beat = Word<W * L>();
  ATTNC_LOOP(TAKE_RUN_WORDS)
TAKE_RUN_WORDS:
  for (int i = 0; i < walk.count[3]; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(TAKE_RUN_WORDS)
    const int half = W == 1 ? 0 : (walk.offset + i) & 1;
    if (W == 1 || i == 0 || half == 0) beat = memory.read();
    out.write(word_of<L, W>(beat, half));
  }
}

// Words that follow each other, `count` from `first` on; of those that come through several ports the parts lie `apart` words apart. Then more.
struct WordRuns {
  int first, count, apart;
  int next_first, next_count, next_apart;
};

// Words as they lie in memory (packed weights and parameters), W at a time: then from an even word on, the last beat as a whole.
template <int L, int W>
void load_words(hls::burst_maxi<Word<W * L>> memory, WordRuns runs, hls::stream<Word<W * L>>& out) {
  const int beats = (runs.count + W - 1) / W, more = (runs.next_count + W - 1) / W;
  if (beats > 0) memory.read_request(runs.first / W, beats);
  if (more > 0) memory.read_request(runs.next_first / W, more);
  ATTNC_LOOP(LOAD_WORDS)
LOAD_WORDS:
  for (int i = 0; i < beats + more; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_WORDS)
    out.write(memory.read());
  }
}

// As `load_words`, a word at a time from beats of W, in any order of even and odd first words.
template <int L, int W> void load_each_word(hls::burst_maxi<Word<W * L>> memory, WordRuns runs, hls::stream<Word<L>>& out) {
  static_assert(W == 1 || W == 2, "load_each_word: a beat is one word or two");
  if (runs.count > 0) memory.read_request(runs.first / W, W == 1 ? runs.count : beats_of(runs.first, runs.count));
  if (runs.next_count > 0) memory.read_request(runs.next_first / W, W == 1 ? runs.next_count : beats_of(runs.next_first, runs.next_count));
  Word<W * L> beat = Word<W * L>();
  int at = runs.first;
  ATTNC_LOOP(LOAD_EACH_WORD)
LOAD_EACH_WORD:
  for (int i = 0; i < runs.count + runs.next_count; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_EACH_WORD)
    if (i == runs.count) at = runs.next_first;
    const int half = W == 1 ? 0 : at & 1;
    if (half == 0 || i == 0 || i == runs.count) beat = memory.read();
    out.write(word_of<L, W>(beat, half));
    ++at;
  }
}

// As `load_words`, of beats that come in parts, each through a port of its own: the first parts of all beats lie first in memory, then the
// second ones. The words are a multiple of those of a beat.
template <int L, int W> void ask_part(hls::burst_maxi<Word<W * L>>& memory, const WordRuns& runs, int part, int parts) {
#pragma HLS INLINE
  const int beats = runs.count / (parts * W), more = runs.next_count / (parts * W);
  if (beats > 0) memory.read_request((runs.first + part * runs.apart) / W, beats);
  if (more > 0) memory.read_request((runs.next_first + part * runs.next_apart) / W, more);
}

// Part `part` of some words that come together.
template <int SIZE, int L> void put_part(Word<SIZE>& words, const Word<L>& in, int part) {
#pragma HLS INLINE
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    words.v[part * L + l] = in.v[l];
  }
}

template <int L, int W>
void load_words_2(hls::burst_maxi<Word<W * L>> a, hls::burst_maxi<Word<W * L>> b, WordRuns runs, hls::stream<Word<2 * W * L>>& out) {
  const int beats = runs.count / (2 * W) + runs.next_count / (2 * W);
  ask_part<L, W>(a, runs, 0, 2);
  ask_part<L, W>(b, runs, 1, 2);
  ATTNC_LOOP(LOAD_WORDS_2)
LOAD_WORDS_2:
  for (int i = 0; i < beats; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_WORDS_2)
    Word<2 * W * L> words;
    put_part(words, a.read(), 0);
    put_part(words, b.read(), 1);
    out.write(words);
  }
}

template <int L, int W>
void load_words_4(hls::burst_maxi<Word<W * L>> a, hls::burst_maxi<Word<W * L>> b, hls::burst_maxi<Word<W * L>> c,
                  hls::burst_maxi<Word<W * L>> d, WordRuns runs, hls::stream<Word<4 * W * L>>& out) {
  const int beats = runs.count / (4 * W) + runs.next_count / (4 * W);
  ask_part<L, W>(a, runs, 0, 4);
  ask_part<L, W>(b, runs, 1, 4);
  ask_part<L, W>(c, runs, 2, 4);
  ask_part<L, W>(d, runs, 3, 4);
  ATTNC_LOOP(LOAD_WORDS_4)
LOAD_WORDS_4:
  for (int i = 0; i < beats; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(LOAD_WORDS_4)
    Word<4 * W * L> words;
    put_part(words, a.read(), 0);
    put_part(words, b.read(), 1);
    put_part(words, c.read(), 2);
    put_part(words, d.read(), 3);
    out.write(words);
  }
}

// A value that is stored in a byte must fit it.
template <class T> void check_byte(T value, bool byte) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
  if (byte && T(Int<8>(value)) != value) {
    std::fprintf(stderr, "store: a value does not fit 8 bits\n");
    std::abort();
  }
#endif
}

// One of 4 bits likewise.
template <class T> void check_nibble(T value, bool small) {
#pragma HLS INLINE
#ifndef __SYNTHESIS__
  if (small && nibble<T>(Int<8>(value & 15)) != value) {
    std::fprintf(stderr, "store: a value does not fit 4 bits\n");
    std::abort();
  }
#endif
}

// Vectors to memory in beats of W words: W = 1, or W = 2 and vectors of 16 bits, a beat each. Ends when the memory has answered.
template <class T, int L, int W, int SMALL = 0> void store(hls::stream<Vec<T, L>>& in, Walk walk, hls::burst_maxi<Word<W * L>> memory) {
  static_assert(width<T>::value >= 16, "store: stream elements must have at least 16 bits");
  static_assert(W == 1 || W == 2, "store: a beat is one word or two");
  static_assert(SMALL == 0 || (L % 2 == 0 && W == 1), "store: a word is two halves, and a beat of elements of 4 bits");
  typedef UInt<W == 1 ? L : 1> bytes_t;  // those of a word that are written
  const Int<16> zero = walk.zero_point;
  const bool wide = walk.bytes == 2, small = SMALL != 0 && walk.bytes == 0;
  const int in_run = W == 1 && wide ? 2 * walk.count[3] : walk.count[3], steps = W == 1 && wide ? 2 * walk.vectors : walk.vectors;
  RunCursor run = first_run(walk);
  Word<W * L> pair = Word<W * L>();
  const bytes_t lower = bytes_t((bytes_t(1) << (L / 2)) - 1), upper = bytes_t(lower << (L / 2));
  int at = 0, unanswered = 0;
  Vec<T, L> vec = Vec<T, L>();
  ATTNC_LOOP(STORE)
STORE:
  for (int i = 0; i < steps; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    ATTNC_TICK(STORE)
    if (at == 0) {
      if (unanswered == REQUESTS) {
        memory.write_response();
        --unanswered;
      }
      memory.write_request(small ? run.first / 2 : run.first / W, small ? beats_of_halves<1>(run.first, in_run) : in_run);
      ++unanswered;
    }
    const bool high = W == 1 && wide && (at & 1);
    if (!high) {
      const Vec<T, L> q = in.read();
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        vec.v[l] = T(q.v[l] + zero);
        check_byte<T>(vec.v[l], !wide);
        check_nibble<T>(vec.v[l], small);
      }
    }
    Word<W * L> beat;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const UInt<16> stored = UInt<16>(vec.v[l]);
      beat.v[l] = high ? UInt<8>(stored >> 8) : UInt<8>(stored);
      if (W == 2) beat.v[(W - 1) * L + l] = UInt<8>(stored >> 8);
    }
    const bool ends = at + 1 == in_run;
    if (small) {
      const int part = (run.first + at) & 1;
      for (int l = 0; l < L / 2; ++l) {
#pragma HLS UNROLL
        const UInt<8> both = UInt<8>((UInt<8>(vec.v[l + L / 2]) << 4) | (UInt<8>(vec.v[l]) & 15));
        pair.v[l] = part == 0 ? both : UInt<8>(pair.v[l]);
        pair.v[l + L / 2] = both;
      }
      const bytes_t written = part == 0 ? lower : at == 0 ? upper : bytes_t(lower | upper);
      if (part == 1 || ends) memory.write(pair, written);
    } else {
      memory.write(beat);
    }
    at = ends ? 0 : at + 1;
    if (ends) run = next_run(run, walk);
  }
  ATTNC_LOOP(STORE_ANSWERS)
STORE_ANSWERS:
  for (int i = 0; i < unanswered; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 0 max = 16
    ATTNC_TICK(STORE_ANSWERS)
    memory.write_response();
  }
}

}  // namespace attnc
