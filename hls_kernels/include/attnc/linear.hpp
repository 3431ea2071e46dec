#pragma once
// linear: y = requantize(x . W^T + bias), one shared engine for every matrix of the model.
//
// Shapes   x [rows, k_tiles*L], W [n_tiles*L, k_tiles*L], y [rows, n_tiles*L]; every stream in (tile, row) order.
// Types    XT signed bytes; WT signed, as wide as the widest weights, none larger than LARGEST; AccT holds bias plus any sum of products; YT holds [low, high].
// Inputs   x_bytes = 2: x of 16 bits comes as memory holds it, the word of its low bytes before that of its high bytes. With its highest
//          bit turned over, a low byte is a signed one less 128, so x = 256 * high + low + 128: two steps per tile on the same
//          multipliers, the sum of the second times 256. The bias holds 128 * sum of the weights. No hardware for it where X_BYTES = 1.
// Weights  a stream of words, group after group of PE output channels: `scales` times PE multipliers u8, one per channel for each group of
//          group_tiles tiles; the weights; PE records of 8 bytes (bias s32, multiplier u24, shift u8, little endian).
//          bits = 8: PE rows of k_tiles words, one signed byte per weight; W_WORDS of these rows take turns, word by word.
//          bits < 8: units of unit_tiles tiles and all PE channels, one behind the other. A unit is one code per lane and channel: the
//          weights of 1, 2 or 4 tiles in two's complement, the first one lowest, or 1 + w of 3 tiles as digits to base 3 (unit_tiles = 3,
//          bits = 5; 2 or 4 bits where 1 or 2 tiles are left). Word i of a unit holds bit i / (PE/8) of the codes of 8 channels, the
//          (i % (PE/8))-th ones: bit v of byte l is lane l of channel v. So unpacking is wiring, and all banks are written at a time, a
//          unit behind its last beat.
// Buffer   an element of w_buffer has STORED bits and holds a byte, a unit of one tile as a weight, or a unit of several: two weights of 4
//          bits (HALVES: whether there are such), or up to QUARTERS of 2 bits (0: none), the first one lowest. So narrow weights that
//          share the buffer with wide ones fill its width, and a choice of tiles reads them; none where all units are of one tile.
// Beats    W_WORDS words arrive per cycle, from one memory port or several. They are of one thing: records, multipliers, rows that take
//          turns, a unit; each is filled up to a whole beat. Of multipliers several groups share a beat where that has room.
// Scales   acc = sum over groups of multiplier * (sum of products); no multiplier, and no hardware for it, where scales = 0.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    R*PE*L multiply-adds per cycle (II = 1) from PE*L weights and R*L inputs, two per DSP (dsp_pair.hpp): R rows at a time take
//          k_tiles * x_bytes cycles, or R*PE/L where that is more, since their sums leave a vector per cycle. The next group is
//          loaded meanwhile, a beat per cycle, SETTLE cycles before it is used. Where R does not divide the rows, the last ones are computed beside rows of zeros,
//          whose sums stay here. No y_buffer where PE = L: sums then come in the order of y.
// Operand  x_buffer holds X_SIDES operands; a run computes with the one in `side`. Stream x brings fill_rows rows of fill_tiles tiles
//          of fill_bytes bytes into fill_side: the operand of this very run, before it computes (fill_first = 1), or that of a later
//          one while this one computes, into the other side (fill_first = 0), a vector per cycle as they come. n_tiles = 0 only fills.
//          fill_rows = 0: x was brought before, and nothing is.
// Ahead    w_buffer holds two groups; group g of a run lies in side (w_side + g) % 2. With w_ready = 1 the weights of group 0 are there
//          already, with their multipliers, and the stream starts with its records. With next_k_tiles > 0 those of group 0 of the next run
//          follow the last records.
// Order    sums leave group after group, in a group row after row, in a row tile after tile; their stream holds SUMS of them.
// Source   output-stationary tiling; one engine shared by all layers as in Edge-MoE.

#include "attnc/dsp_pair.hpp"
#include "attnc/fixedpoint.hpp"
#include "attnc/timing.hpp"
#include "attnc/types.hpp"

#include <hls_stream.h>

namespace attnc {

struct LinearCall {
  int rows, k_tiles, n_tiles, low, high, bits, unit_tiles, group_tiles, scales, x_bytes;
  int side, fill_rows, fill_tiles, fill_bytes, fill_side, fill_first;  // operand
  int w_side, w_ready, next_k_tiles, next_bits, next_unit_tiles, next_scales;  // ahead
  // Counts that follow: groups of PE channels (steps); units of k_tiles, beats of each but the last one and of that, and of all weights of a
  // group, all of the next run too; vectors of the operand that comes; outputs, and the sums of a block and of the last one. Each grows with
  // the rows by a factor.
  int all_steps, units, unit_beats, tail_beats, weights, next_units, next_unit_beats, next_tail_beats, next_weights;
  int fill, outputs, block_sums, last_sums;
};

static constexpr int SETTLE = 4;  // cycles after which what a pipeline wrote to a buffer can be read; the pragmas repeat the number

// Bias, multiplier and shift of one output channel.
struct LinearRecord {
  Int<32> bias;
  multiplier_t multiplier;
  shift_t shift;
};

// From 8 bytes.
inline LinearRecord linear_record(const UInt<8>* b) {
#pragma HLS INLINE
  LinearRecord record;
  record.bias = Int<32>(UInt<32>(b[0]) | (UInt<32>(b[1]) << 8) | (UInt<32>(b[2]) << 16) | (UInt<32>(b[3]) << 24));
  record.multiplier = multiplier_t(UInt<32>(b[4]) | (UInt<32>(b[5]) << 8) | (UInt<32>(b[6]) << 16));
  record.shift = shift_t(b[7]);
  return record;
}

// Adds word `bit` of a unit to its codes: bit v of byte l is bit `bit` of lane l of channel v.
template <class CodeT, int L> void add_code_bit(Vec<CodeT, L> codes[8], const Word<L>& word, int bit) {
#pragma HLS INLINE
  for (int v = 0; v < 8; ++v) {
#pragma HLS UNROLL
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      const CodeT one = CodeT(CodeT((word.v[l] >> v) & UInt<8>(1)) << bit);
      codes[v].v[l] = bit == 0 ? one : CodeT(codes[v].v[l] | one);
    }
  }
}

// A number in two's complement of `bits` bits, which may stand below others.
inline Int<8> signed_field(UInt<8> code, int bits) {
#pragma HLS INLINE
  const UInt<8> sign = UInt<8>(1 << (bits - 1)), number = UInt<8>(code & UInt<8>((1 << bits) - 1));
  return Int<8>(Int<16>(Int<16>(UInt<8>(number ^ sign)) - Int<16>(sign)));
}

// What w_buffer holds for the code of a unit.
template <int STORED, bool HALVES, bool QUARTERS> Int<STORED> unpacked_unit(UInt<8> code, int bits, int unit_tiles) {
#pragma HLS INLINE
  if (QUARTERS && unit_tiles == 3) {
    const UInt<8> second = UInt<8>((UInt<16>(code) * UInt<16>(11)) >> 5);  // code / 3 for codes up to 26
    const UInt<8> third = UInt<8>((UInt<16>(second) * UInt<16>(11)) >> 5);
    const UInt<8> digits[3] = {UInt<8>(code - UInt<8>(second * UInt<8>(3))), UInt<8>(second - UInt<8>(third * UInt<8>(3))), third};
    UInt<8> unit = 0;
    for (int tile = 0; tile < 3; ++tile) {
#pragma HLS UNROLL
      unit = UInt<8>(unit | UInt<8>(UInt<8>(UInt<8>(digits[tile] + UInt<8>(3)) & UInt<8>(3)) << (2 * tile)));
    }
    return Int<STORED>(unit);
  }
  if (HALVES && unit_tiles == 2 && bits > 2) {
    const Int<8> low = signed_field(code, bits), high = signed_field(UInt<8>(bits == 3 ? code >> 3 : code >> 4), bits);
    return Int<STORED>(Int<8>(UInt<8>(UInt<8>(UInt<8>(high) << 4) | UInt<8>(UInt<8>(low) & UInt<8>(15)))));
  }
  return unit_tiles > 1 ? Int<STORED>(code) : Int<STORED>(signed_field(code, bits));
}

// The weights of a tile: the `tile`-th of each unit.
template <class WT, int STORED, bool HALVES, bool QUARTERS, int L>
Vec<WT, L> tile_of(const Vec<Int<STORED>, L>& units, int tile, int bits, int unit_tiles) {
#pragma HLS INLINE
  Vec<WT, L> weights;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    const Int<8> unit = Int<8>(units.v[l]);
    Int<8> weight = unit;
    if (QUARTERS && unit_tiles > 1 && (unit_tiles > 2 || bits == 2)) weight = signed_field(UInt<8>(UInt<8>(unit) >> (2 * tile)), 2);
    if (HALVES && unit_tiles == 2 && bits > 2) weight = signed_field(UInt<8>(UInt<8>(unit) >> (4 * tile)), 4);
    weights.v[l] = WT(weight);
  }
  return weights;
}

// Word `part` of some that came together.
template <int L, int W> Word<L> word_at(const Word<W * L>& words, int part) {
#pragma HLS INLINE
  Word<L> word;
  for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
    word.v[l] = words.v[part * L + l];
  }
  return word;
}

template <class XT, class WT, class AccT, int L, int PE, int R, int UNITS_MAX, int STORED, int HALVES, int QUARTERS, int LARGEST,
          int X_TILES_MAX, int X_BYTES, int X_SIDES, int ROWS_MAX, int SCALES_MAX, int PACKED, int W_WORDS, int SUMS>
void linear_accumulate(hls::stream<Vec<XT, L>>& x, hls::stream<Word<W_WORDS * L>>& w, hls::stream<Word<W_WORDS * L>>& records,
                       hls::stream<Vec<AccT, L>>& sums, LinearCall call) {
  static_assert(PE % L == 0 && PE % 2 == 0, "linear: PE must be an even multiple of the number of lanes L");
  static_assert(R > 0, "linear: at least one row is computed at a time");
  static_assert(width<XT>::value == 8 && width<WT>::value <= 8, "linear: inputs come as bytes, weights have at most 8 bits");
  static_assert(X_SIDES == 1 || X_SIDES == 2, "linear: one or two operands are held");
  static_assert(X_BYTES == 1 || X_BYTES == 2, "linear: inputs have one or two bytes");
  static_assert(W_WORDS == 1 || W_WORDS == 2 || W_WORDS == 4 || W_WORDS == 8, "linear: weights come 1, 2, 4 or 8 words per cycle");
  static_assert(PE * 8 % (L * W_WORDS) == 0, "linear: the records of a group must fill whole beats");
  static_assert(PACKED >= 0 && PACKED <= 8, "linear: units of packed weights have codes of at most 8 bits");
  static_assert(STORED <= 8 && (HALVES == 0 || STORED == 8) && 2 * QUARTERS <= STORED, "linear: a unit fits an element of w_buffer");
  static_assert(SUMS >= PE * 8 / L / W_WORDS, "linear: sums must have room until all records of a group have come");
  static_assert(PE % W_WORDS == 0, "linear: words that come together are of different channels");
  typedef Int<width<XT>::value + width<WT>::value + clog2(L)> dot_t;
  static const int OCTETS = (PE + 7) / 8, TURNS = 8 / W_WORDS, TILES = PE / L, ROW_BLOCKS = (ROWS_MAX + R - 1) / R;
  // Multipliers of a group take SCALE_PARTS beats, or those of SCALE_GROUPS groups share one.
  static const int BEAT = W_WORDS * L, SCALE_PARTS = (PE + BEAT - 1) / BEAT, SCALE_GROUPS = BEAT > PE ? BEAT / PE : 1;
  static Vec<XT, L> x_buffer[X_SIDES][ROW_BLOCKS][X_TILES_MAX][R];
#pragma HLS AGGREGATE variable = x_buffer
#ifdef ATTNC_LINEAR_X_BUFFER
  ATTNC_BIND(x_buffer, ATTNC_LINEAR_X_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = x_buffer dim = 4 complete
  // Channel pe lies in [pe / 8][pe % 8 / W_WORDS][pe % W_WORDS]: what is written in a cycle lies in banks that differ by constants.
  static Vec<Int<STORED>, L> w_buffer[2][OCTETS][TURNS][W_WORDS][UNITS_MAX];
#pragma HLS AGGREGATE variable = w_buffer
#ifdef ATTNC_LINEAR_W_BUFFER
  ATTNC_BIND(w_buffer, ATTNC_LINEAR_W_BUFFER)
#endif
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 2 complete
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 3 complete
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 4 complete
  static UInt<8> s_buffer[2][PE][SCALES_MAX > 0 ? (SCALES_MAX + SCALE_GROUPS - 1) / SCALE_GROUPS : 1][SCALE_GROUPS];
#pragma HLS ARRAY_PARTITION variable = s_buffer dim = 2 complete
#pragma HLS ARRAY_PARTITION variable = s_buffer dim = 4 complete
  AccT acc[R][PE], part[R][PE], done[R][TILES][L];
#pragma HLS ARRAY_PARTITION variable = acc complete dim = 0
#pragma HLS ARRAY_PARTITION variable = part complete dim = 0
#pragma HLS ARRAY_PARTITION variable = done complete dim = 0
  const int groups = call.all_steps;
  const int record_slots = PE * 8 / L / W_WORDS, weight_slots = call.weights, next_slots = call.next_weights;
  const int own_scales = SCALE_GROUPS > 1 ? (call.scales + SCALE_GROUPS - 1) / SCALE_GROUPS : call.scales * SCALE_PARTS;
  const int next_scales = SCALE_GROUPS > 1 ? (call.next_scales + SCALE_GROUPS - 1) / SCALE_GROUPS : call.next_scales * SCALE_PARTS;
  const int products = call.x_bytes == 2 ? 2 * call.k_tiles : call.k_tiles;
  const int row_slots = max_of(products, R * TILES), steps = int(UInt<16>((UInt<16>(call.rows) + (R - 1)) / R)) * row_slots;
  int done_rows = 0, done_row = 0, done_tile = 0;
  int x_slots = call.fill;
  int x_tile = 0, x_byte = 0, x_left = call.fill_rows, x_block = 0, x_bank = 0;
  // While a group is computed, its records and the weights of the next one are loaded. Group -1 computes nothing: it loads group 0, and x
  // where this run needs it. What is written is read SETTLE cycles later at least.
  const int first_load = groups > 0 && call.w_ready == 0 ? weight_slots : 0;
  const int first_wait = max_of(first_load, call.fill_first != 0 ? x_slots : 0), first_trips = first_wait > 0 ? first_wait + SETTLE : 0;
  const int group_load = record_slots + weight_slots, group_trips = max_of(group_load + SETTLE, steps);
  const int last_load = record_slots + next_slots, last_trips = max_of(last_load, steps);
  const int all_trips = first_trips + (groups > 0 ? int(UInt<16>(groups - 1)) * group_trips + last_trips : 0);
  int group = first_trips > 0 ? -1 : 0, at = 0;
  int trips_left = first_trips > 0 ? first_trips : groups > 1 ? group_trips : last_trips;
  int load_slots = first_trips > 0 ? first_load : groups > 1 ? group_load : last_load;
  bool ahead = first_trips == 0 && groups < 2;
  // A run that finds its first weights computes a block of rows while its records and the next weights are on their way from memory, as far
  // as it can afford to take them later, and as `sums` holds what leaves until all records have gone: one per cycle, behind the first products.
  const int spare_trips = max_of(trips_left - load_slots - SETTLE, 0), held_trips = max_of(products + SUMS - record_slots, 0);
  const int late_trips = row_slots < held_trips ? row_slots : held_trips;
  int load_from = first_trips > 0 ? 0 : spare_trips < late_trips ? spare_trips : late_trips;
  int left = call.rows, block = 0, step = 0, k = 0, k_unit = 0, in_unit = 0, byte = 0, in_group = 0, k_group = 0;
  int load_rows = 0, load_k = 0, scale = 0, scale_part = 0;
  int unit = 0, slot = 0;
  Vec<UInt<8>, L> codes[OCTETS][8];
#pragma HLS ARRAY_PARTITION variable = codes complete dim = 0

  // All groups in one pipeline; then, in the second phase, the last sums leave and what is left of x is waited for.
PHASES:
  for (int phase = 0; phase < 2; ++phase) {
    const int trips = phase == 0 ? all_trips : max_of(x_slots, R * TILES);
    ATTNC_LOOP(MULTIPLY)
  MULTIPLY:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
#pragma HLS DEPENDENCE variable = x_buffer inter RAW distance = 4 true
#pragma HLS DEPENDENCE variable = w_buffer inter RAW distance = 4 true
#pragma HLS DEPENDENCE variable = s_buffer inter RAW distance = 4 true
      ATTNC_TICK(MULTIPLY)
      const bool waits = phase == 1 || (group < 0 && call.fill_first != 0);
      const int fill = (call.w_side + group + 1) & 1, use = (call.w_side + group) & 1;
      const int taken = at - load_from;
      if (phase == 0 && groups > 0 && taken >= 0 && taken < load_slots) {
        const int head = group < 0 ? 0 : record_slots;
        const int k_tiles = ahead ? call.next_k_tiles : call.k_tiles, bits = ahead ? call.next_bits : call.bits;
        const int unit_tiles = ahead ? call.next_unit_tiles : call.unit_tiles, units = ahead ? call.next_units : call.units;
        const bool in_records = taken < head;
        const bool in_scales = SCALES_MAX > 0 && !in_records && taken < head + (ahead ? next_scales : own_scales);
        const bool in_codes = PACKED > 0 && bits < 8 && !in_records && !in_scales;
        const int whole_beats = ahead ? call.next_unit_beats : call.unit_beats, tail_beats = ahead ? call.next_tail_beats : call.tail_beats;
        const Word<BEAT> words = w.read();
        if (in_records) {
          records.write(words);
        } else if (in_scales) {
          for (int g = 0; g < SCALE_GROUPS; ++g) {
#pragma HLS UNROLL
            for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
              if (pe / BEAT == scale_part) s_buffer[fill][pe][scale][g] = words.v[(g * PE + pe) % BEAT];
            }
          }
          scale_part = scale_part + 1 == SCALE_PARTS ? 0 : scale_part + 1;
          scale = scale_part == 0 ? scale + 1 : scale;
        } else if (!in_codes) {
          for (int row = 0; row < W_WORDS; ++row) {
#pragma HLS UNROLL
            Vec<Int<STORED>, L> weights;
            for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
              weights.v[l] = Int<STORED>(Int<8>(words.v[row * L + l]));
            }
            w_buffer[fill][load_rows / TURNS][load_rows % TURNS][row][load_k] = weights;
          }
          load_k = load_k + 1 == k_tiles ? 0 : load_k + 1;
          load_rows = load_k == 0 ? load_rows + 1 : load_rows;
        } else {
          for (int octet = 0; octet < OCTETS; ++octet) {
#pragma HLS UNROLL
            for (int bit = 0; bit < PACKED; ++bit) {
#pragma HLS UNROLL
              const int word = bit * OCTETS + octet;
              if (word / W_WORDS == slot) add_code_bit<UInt<8>, L>(codes[octet], word_at<L, W_WORDS>(words, word % W_WORDS), bit);
            }
          }
          if (++slot == (unit + 1 < units ? whole_beats : tail_beats)) {
            for (int octet = 0; octet < OCTETS; ++octet) {
#pragma HLS UNROLL
              for (int v = 0; v < 8; ++v) {
#pragma HLS UNROLL
                Vec<Int<STORED>, L> weights;
                for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                  weights.v[l] = unpacked_unit<STORED, HALVES != 0, QUARTERS != 0>(codes[octet][v].v[l], bits, unit_tiles);
                }
                if (octet * 8 + v < PE) w_buffer[fill][octet][v / W_WORDS][v % W_WORDS][unit] = weights;
              }
            }
            slot = 0;
            ++unit;
          }
        }
      }
      // What comes too late for this iteration is taken in another: the products wait for nothing that they do not need. Whether a vector
      // is there and its reading are one access, since a test in a stage before that of the read would see what another iteration takes.
      Vec<XT, L> xs = Vec<XT, L>();
      bool came = waits && x_slots > 0;
      if (came) {
        xs = x.read();
      } else if (x_slots > 0) {
        came = x.read_nb(xs);
      }
      if (came) {
        --x_slots;
        if (X_BYTES > 1 && call.fill_bytes > 1 && x_byte == 0) {
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            xs.v[l] = XT(xs.v[l] ^ XT(-128));
          }
        }
        for (int r = 0; r < R; ++r) {
#pragma HLS UNROLL
          Vec<XT, L> value;
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            value.v[l] = r == x_bank ? xs.v[l] : XT(0);
          }
          // The first row of a block clears those beside it, which may never come.
          if (r == x_bank || x_bank == 0) x_buffer[X_SIDES > 1 ? call.fill_side : 0][x_block][x_tile + x_byte][r] = value;
        }
        x_byte = x_byte + 1 == call.fill_bytes ? 0 : x_byte + 1;
        if (x_byte == 0) {
          --x_left;
          x_bank = x_left == 0 || x_bank + 1 == R ? 0 : x_bank + 1;
          x_block = x_left == 0 ? 0 : x_bank == 0 ? x_block + 1 : x_block;
          x_tile = x_left == 0 ? x_tile + call.fill_bytes : x_tile;
          x_left = x_left == 0 ? call.fill_rows : x_left;
        }
      }
      if (done_rows > 0) {
        Vec<AccT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          out.v[l] = done[done_row][done_tile][l];
        }
        sums.write(out);
        done_tile = done_tile + 1 == TILES ? 0 : done_tile + 1;
        done_row = done_tile == 0 ? done_row + 1 : done_row;
        done_rows = done_tile == 0 ? done_rows - 1 : done_rows;
      }
      const bool computing = group >= 0 && group < groups && left > 0;
      if (computing && step < products) {
        const bool high = X_BYTES > 1 && byte == 1;
        const bool whole = X_BYTES == 1 || byte + 1 == call.x_bytes;
        const bool first = !high && (SCALES_MAX > 0 ? in_group == 0 : k == 0);
        const bool last = whole && k + 1 == call.k_tiles;
        for (int pe = 0; pe < PE; pe += 2) {
#pragma HLS UNROLL
          Vec<WT, L> pair[2];
          for (int of = 0; of < 2; ++of) {
#pragma HLS UNROLL
            const int at = pe + of;
            const Vec<Int<STORED>, L> units = w_buffer[use][at / 8][at % 8 / W_WORDS][at % W_WORDS][k_unit];
            pair[of] = tile_of<WT, STORED, HALVES != 0, QUARTERS != 0, L>(units, in_unit, call.bits, call.unit_tiles);
          }
          for (int r = 0; r < R; ++r) {
#pragma HLS UNROLL
            dot_t a = 0, b = 0;
            dot_pair<dot_t, XT, WT, L, LARGEST>(x_buffer[X_SIDES > 1 ? call.side : 0][block][step][r], pair[0], pair[1], a, b);
            part[r][pe] = AccT((first ? AccT(0) : part[r][pe]) + AccT(a) * AccT(high ? 256 : 1));
            part[r][pe + 1] = AccT((first ? AccT(0) : part[r][pe + 1]) + AccT(b) * AccT(high ? 256 : 1));
          }
        }
        if (SCALES_MAX > 0 && whole) {
          const bool ends = last || in_group + 1 == call.group_tiles;
          if (ends) {
            for (int r = 0; r < R; ++r) {
#pragma HLS UNROLL
              for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
                const AccT scaled = call.scales > 0 ? AccT(part[r][pe] * AccT(s_buffer[use][pe][k_group / SCALE_GROUPS][k_group % SCALE_GROUPS])) : part[r][pe];
                acc[r][pe] = k_group == 0 ? scaled : AccT(acc[r][pe] + scaled);
              }
            }
          }
          in_group = ends ? 0 : in_group + 1;
          k_group = last ? 0 : ends ? k_group + 1 : k_group;
        }
        if (last) {
          for (int r = 0; r < R; ++r) {
#pragma HLS UNROLL
            for (int pe = 0; pe < PE; ++pe) {
#pragma HLS UNROLL
              done[r][pe / L][pe % L] = SCALES_MAX > 0 ? acc[r][pe] : part[r][pe];
            }
          }
          done_rows = left < R ? left : R;
          done_row = 0;
        }
        byte = whole ? 0 : byte + 1;
        k = whole ? k + 1 : k;
        in_unit = !whole ? in_unit : in_unit + 1 == call.unit_tiles ? 0 : in_unit + 1;
        k_unit = whole && in_unit == 0 ? k_unit + 1 : k_unit;
      }
      if (computing && ++step == row_slots) {
        step = k = k_unit = in_unit = 0;
        ++block;
        left -= R;
      }
      ++at;
      if (phase == 0 && --trips_left == 0) {
        ++group;
        ahead = group + 1 >= groups;
        trips_left = ahead ? last_trips : group_trips;
        load_slots = ahead ? last_load : group_load;
        load_from = 0;
        at = 0;
        left = call.rows;
        block = step = k = k_unit = in_unit = byte = in_group = k_group = 0;
        load_rows = load_k = scale = scale_part = 0;
        unit = slot = 0;
      }
    }
  }
}

// Steps of PE channels whose outputs are held until all are there.
inline int steps_of(const LinearCall&) {
#pragma HLS INLINE
  return 1;
}

// The sums of `steps` times PE channels, row after row and WIDTH at a time, become outputs; then the next steps * PE channels, or what is
// left. One pipeline: for each block its records, BYTES bytes at a time, then its sums, while the outputs of the block before leave. A block
// of a single tile is not buffered: its rows are in order.
template <class AccT, class YT, int L, int PE, int WIDTH, int ROWS_MAX, int STEPS_MAX, int BYTES, class Call>
void linear_rescale(hls::stream<Word<BYTES>>& records, hls::stream<Vec<AccT, WIDTH>>& sums, hls::stream<Vec<YT, L>>& y, Call call) {
  static_assert(width<YT>::value >= 16, "linear: outputs have at least 16 bits");
  static_assert(PE % L == 0 && WIDTH % L == 0, "linear: channels that come together must be whole vectors");
  static_assert(8 * L % BYTES == 0, "linear: the records of a vector must fill whole words");
  static const int TILES = PE / L, PARTS = WIDTH / L, RECORD_SLOTS = PE * 8 / BYTES;
  static const bool DIRECT = STEPS_MAX * TILES == 1;
  static Vec<YT, L> y_buffer[2][STEPS_MAX * TILES][ROWS_MAX];
#pragma HLS AGGREGATE variable = y_buffer
#ifdef ATTNC_LINEAR_Y_BUFFER
  ATTNC_BIND(y_buffer, ATTNC_LINEAR_Y_BUFFER)
#endif
  // Records of the block: those of a tile lie in BANKS words, side by side.
  static const int BANKS = 8 * L / BYTES;
  Word<BYTES> kept[BANKS][STEPS_MAX * TILES];
#pragma HLS AGGREGATE variable = kept
#pragma HLS ARRAY_PARTITION variable = kept dim = 1 complete
  const int steps = steps_of(call);
  int steps_left = call.all_steps, block_steps = steps < steps_left ? steps : steps_left;
  // The outputs of a block need as many cycles as its sums: once the first block is there, a vector leaves per cycle.
  const int trips = call.all_steps * RECORD_SLOTS + call.outputs + (DIRECT ? 0 : call.block_sums + SETTLE);
  int records_left = block_steps * RECORD_SLOTS, sums_left = call.block_sums, y_left = call.outputs;
  int record_bank = 0, record_tile = 0, step = 0, tile = 0, part = 0, in_block = 0, row = 0;
  int ahead = 0, settle = 0, fill = 0, use = 0, out_tile = 0, out_row = 0;
  Vec<AccT, WIDTH> sum = Vec<AccT, WIDTH>();
  ATTNC_LOOP(RESCALE)
RESCALE:
  for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
#pragma HLS DEPENDENCE variable = y_buffer inter RAW distance = 4 true
    ATTNC_TICK(RESCALE)
    if (records_left > 0) {
      const Word<BYTES> word = records.read();
      for (int bank = 0; bank < BANKS; ++bank) {
#pragma HLS UNROLL
        if (bank == record_bank) kept[bank][record_tile] = word;
      }
      record_bank = record_bank + 1 == BANKS ? 0 : record_bank + 1;
      record_tile = record_bank == 0 ? record_tile + 1 : record_tile;
      --records_left;
    } else {
      // Block after block of outputs, those of one that is whole.
      if (!DIRECT && ahead > 0 && settle == 0 && y_left > 0) {
        y.write(y_buffer[use][out_tile][out_row]);
        --y_left;
        out_tile = out_row + 1 == call.rows ? out_tile + 1 : out_tile;
        out_row = out_row + 1 == call.rows ? 0 : out_row + 1;
        if (out_tile == steps * TILES) {
          out_tile = 0;
          use = 1 - use;
          --ahead;
        }
      }
      settle = settle > 0 ? settle - 1 : 0;
      if (sums_left > 0) {
        if (part == 0) sum = sums.read();
        UInt<8> bytes[8 * L];
        for (int b = 0; b < 8 * L; ++b) {
#pragma HLS UNROLL
          bytes[b] = kept[b / BYTES][in_block].v[b % BYTES];
        }
        Vec<YT, L> out;
        for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
          const LinearRecord record = linear_record(&bytes[8 * l]);
          AccT biased = record.bias;
          for (int q = 0; q < PARTS; ++q) {
#pragma HLS UNROLL
            if (q == part) biased = AccT(sum.v[q * L + l] + AccT(record.bias));
          }
          out.v[l] = YT(requantize<AccT>(biased, record.multiplier, record.shift, call.low, call.high));
        }
        if (DIRECT) {
          y.write(out);
        } else {
          y_buffer[fill][in_block][row] = out;
        }
        part = part + 1 == PARTS ? 0 : part + 1;
        tile = tile + 1 == TILES ? 0 : tile + 1;
        step = tile == 0 ? step + 1 : step;
        ++in_block;
        if (step == block_steps) {
          step = in_block = 0;
          ++row;
        }
        if (--sums_left == 0) {
          row = record_tile = 0;
          fill = 1 - fill;
          ++ahead;
          steps_left -= block_steps;
          block_steps = steps_left < steps ? steps_left : steps;
          records_left = block_steps * RECORD_SLOTS;
          sums_left = block_steps == 0 ? 0 : block_steps < steps ? call.last_sums : call.block_sums;
          settle = steps_left == 0 ? SETTLE : 0;
        }
      }
    }
  }
}

}  // namespace attnc
