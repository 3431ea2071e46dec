#pragma once
// Between memory and streams: a walk of four nested loops over vectors, the innermost one contiguous.
// Streams carry q, memory holds q + zero_point: `load` takes it off every element (of padding too), `store` puts it on.
//
// Memory is an array of words of L bytes. A vector is L signed elements of `bytes` bytes, so one word, or two: all low bytes, then all
// high bytes. Vector i of a tensor at word `offset` starts at word offset + i * bytes. II = 1 per word; bursts are count[3] * bytes words long.
// Where a memory port is wide enough for two words per cycle, it is an array of such beats. Tensors start at even words.

#include "attnc/types.hpp"

#include <hls_stream.h>

#ifndef __SYNTHESIS__
#include <cstdio>
#include <cstdlib>
#endif

namespace attnc {

struct Walk {
  int offset;
  int count[4];
  int stride[3];
  int bytes;
  int zero_point;
};

// Words from one turn of loop `loop` to the next.
inline int step(const Walk& walk, int loop) {
#pragma HLS INLINE
  return walk.bytes == 2 ? 2 * walk.stride[loop] : walk.stride[loop];
}

// Elements of `bytes` bytes in words that follow each other from `first` on.
template <class T, int L>
void load_run(const Word<L>* memory, int first, int count, int bytes, Int<16> zero, hls::stream<Vec<T, L>>& out) {
#pragma HLS INLINE
  static_assert(width<T>::value >= 8, "load: stream elements must have at least 8 bits");
  Word<L> low;
LOAD_RUN:
  for (int i = 0; i < (bytes == 2 ? 2 * count : count); ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
    const Word<L> word = memory[first + i];
    if (bytes == 1 || i % 2 == 1) {
      Vec<T, L> vec;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        if (bytes == 1) {
          vec.v[l] = T(Int<8>(word.v[l]) - zero);
        } else {
          vec.v[l] = T(Int<16>(UInt<16>((UInt<16>(word.v[l]) << 8) | low.v[l])) - zero);
        }
      }
      out.write(vec);
    }
    low = word;
  }
}

// As `load_run`, from memory in beats of two words: a vector of 16 bits per cycle, or two of 8 bits in two cycles.
template <class T, int L>
void load_run_beats(const Word<2 * L>* memory, int first, int count, int bytes, Int<16> zero, hls::stream<Vec<T, L>>& out) {
#pragma HLS INLINE
  static_assert(width<T>::value >= 8, "load: stream elements must have at least 8 bits");
  if (bytes == 2) {
  LOAD_16_BITS:
    for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
      const Word<2 * L> beat = memory[first / 2 + i];
      Vec<T, L> vec;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        vec.v[l] = T(Int<16>(UInt<16>((UInt<16>(beat.v[L + l]) << 8) | beat.v[l])) - zero);
      }
      out.write(vec);
    }
  } else {
  LOAD_8_BITS:
    for (int at = first / 2; at < (first + count + 1) / 2; ++at) {
#pragma HLS PIPELINE II = 2
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 128
      const Word<2 * L> beat = memory[at];
      for (int half = 0; half < 2; ++half) {
#pragma HLS UNROLL
        Vec<T, L> vec;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          vec.v[l] = T(Int<8>(beat.v[half * L + l]) - zero);
        }
        if (2 * at + half >= first && 2 * at + half < first + count) out.write(vec);
      }
    }
  }
}

// A walk is followed by additions alone: no multiplier finds an address.
template <class T, int L>
void load(const Word<L>* memory, Walk walk, hls::stream<Vec<T, L>>& out) {
  int first0 = walk.offset;
LOAD_0:
  for (int i0 = 0; i0 < walk.count[0]; ++i0) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
    int first1 = first0;
  LOAD_1:
    for (int i1 = 0; i1 < walk.count[1]; ++i1) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
      int first2 = first1;
    LOAD_2:
      for (int i2 = 0; i2 < walk.count[2]; ++i2) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
        load_run<T, L>(memory, first2, walk.count[3], walk.bytes, walk.zero_point, out);
        first2 += step(walk, 2);
      }
      first1 += step(walk, 1);
    }
    first0 += step(walk, 0);
  }
}

// As `load`, from memory in beats.
template <class T, int L>
void load_beats(const Word<2 * L>* memory, Walk walk, hls::stream<Vec<T, L>>& out) {
  int first0 = walk.offset;
LOAD_BEATS_0:
  for (int i0 = 0; i0 < walk.count[0]; ++i0) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
    int first1 = first0;
  LOAD_BEATS_1:
    for (int i1 = 0; i1 < walk.count[1]; ++i1) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
      int first2 = first1;
    LOAD_BEATS_2:
      for (int i2 = 0; i2 < walk.count[2]; ++i2) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
        load_run_beats<T, L>(memory, first2, walk.count[3], walk.bytes, walk.zero_point, out);
        first2 += step(walk, 2);
      }
      first1 += step(walk, 1);
    }
    first0 += step(walk, 0);
  }
}

// As `store`, of vectors of 16 bits, a beat of two words each.
template <class T, int L>
void store_beats(hls::stream<Vec<T, L>>& in, Walk walk, Word<2 * L>* memory) {
  static_assert(width<T>::value >= 16, "store: stream elements must have at least 16 bits");
  const Int<16> zero = walk.zero_point;
  int first0 = walk.offset;
STORE_BEATS_0:
  for (int i0 = 0; i0 < walk.count[0]; ++i0) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
    int first1 = first0;
  STORE_BEATS_1:
    for (int i1 = 0; i1 < walk.count[1]; ++i1) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
      int first2 = first1;
    STORE_BEATS_2:
      for (int i2 = 0; i2 < walk.count[2]; ++i2) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
      STORE_BEATS_3:
        for (int i = 0; i < walk.count[3]; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
          const Vec<T, L> q = in.read();
          Word<2 * L> beat;
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            const UInt<16> stored = UInt<16>(T(q.v[l] + zero));
            beat.v[l] = UInt<8>(stored);
            beat.v[L + l] = UInt<8>(stored >> 8);
          }
          memory[first2 / 2 + i] = beat;
        }
        first2 += step(walk, 2);
      }
      first1 += step(walk, 1);
    }
    first0 += step(walk, 0);
  }
}

// Words as they lie in memory (packed weights and parameters), W at a time: then from an even word on, the last beat as a whole.
template <int L, int W = 1> void load_words(const Word<W * L>* memory, Walk walk, hls::stream<Word<W * L>>& out) {
LOAD_WORDS:
  for (int i = 0; i < (walk.count[3] + W - 1) / W; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    out.write(memory[walk.offset / W + i]);
  }
}

// As `load_words`, two beats at a time through two ports: the first half of the words in memory are the beats 0, 2, 4, ... of what comes,
// the second half those between. The words are a multiple of 4.
template <int L>
void load_words_pair(const Word<2 * L>* even, const Word<2 * L>* odd, Walk walk, hls::stream<Word<4 * L>>& out) {
  const int first = walk.offset / 2, half = walk.count[3] / 4;
LOAD_WORDS_PAIR:
  for (int i = 0; i < half; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
    const Word<2 * L> low = even[first + i], high = odd[first + half + i];
    Word<4 * L> words;
    for (int l = 0; l < 2 * L; ++l) {
#pragma HLS UNROLL
      words.v[l] = low.v[l];
      words.v[2 * L + l] = high.v[l];
    }
    out.write(words);
  }
}

// As `load_words`, from memory in beats; the first and the last beat may hold one word that is not asked for.
template <int L> void load_words_beats(const Word<2 * L>* memory, Walk walk, hls::stream<Word<L>>& out) {
#pragma HLS INLINE
  const int first = walk.offset, end = first + walk.count[3];
LOAD_WORDS_BEATS:
  for (int at = first / 2; at < (end + 1) / 2; ++at) {
#pragma HLS PIPELINE II = 2
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 2048
    const Word<2 * L> beat = memory[at];
    for (int half = 0; half < 2; ++half) {
#pragma HLS UNROLL
      Word<L> word;
      for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
        word.v[l] = beat.v[half * L + l];
      }
      if (2 * at + half >= first && 2 * at + half < end) out.write(word);
    }
  }
}

template <class T, int L>
void store(hls::stream<Vec<T, L>>& in, Walk walk, Word<L>* memory) {
  static_assert(width<T>::value >= 16, "store: stream elements must have at least 16 bits");
  const Int<16> zero = walk.zero_point;
  int first0 = walk.offset;
STORE_0:
  for (int i0 = 0; i0 < walk.count[0]; ++i0) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
    int first1 = first0;
  STORE_1:
    for (int i1 = 0; i1 < walk.count[1]; ++i1) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1
      int first2 = first1;
    STORE_2:
      for (int i2 = 0; i2 < walk.count[2]; ++i2) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
        Vec<T, L> vec;
      STORE_3:
        for (int i = 0; i < (walk.bytes == 2 ? 2 * walk.count[3] : walk.count[3]); ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 256
          const bool high = walk.bytes == 2 && i % 2 == 1;
          if (!high) {
            const Vec<T, L> q = in.read();
            for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
              vec.v[l] = T(q.v[l] + zero);
            }
          }
          Word<L> word;
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
#ifndef __SYNTHESIS__
            if (walk.bytes == 1 && T(Int<8>(vec.v[l])) != vec.v[l]) {
              std::fprintf(stderr, "store: a value does not fit 8 bits\n");
              std::abort();
            }
#endif
            word.v[l] = high ? UInt<8>(UInt<16>(vec.v[l]) >> 8) : UInt<8>(vec.v[l]);
          }
          memory[first2 + i] = word;
        }
        first2 += step(walk, 2);
      }
      first1 += step(walk, 1);
    }
    first0 += step(walk, 0);
  }
}

}  // namespace attnc
