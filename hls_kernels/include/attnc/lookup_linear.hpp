#pragma once
// lookup_linear: y = requantize(x . W^T + bias) without multiplications: sums of G activations are tabulated, weights are indices.
//
// Shapes   x [rows, k_tiles*L], W [n_tiles*L, k_tiles*L], y [rows, n_tiles*L]; every stream in (tile, row) order.
// Types    XT signed integer; PartT holds any sum of the activations of a group; AccT holds bias plus any sum; YT holds [low, high].
// Tables   T at a time. Table t serves lane t % L: its G activations are that lane of G consecutive tiles, so that no activation
//          changes lanes. ternary: the 3^G sums with factors -1, 0, 1 (TLMM). planes: the 16 sums of 4 activations, each times the
//          bit of its weight (two's complement) or times -1 or 1 (both_signs: binary coding).
//          They are rebuilt for every row and chunk of T/L*G tiles, while the tables before are looked up. Where a chunk reaches over
//          the end of a group of weights, it is visited once per group, with the activations of the other group as zeros.
// Columns  Q at a time, each with a copy of all tables (distributed RAM has one read port). A column takes `planes` cycles.
// Weights  blocks of steps*Q channels (the last may have fewer), two of them on chip: steps*Q records (see linear.hpp), for each step `scales` times Q
//          multipliers u8 (for each group of group_tiles tiles; times planes for binary), then for each step, plane (highest first),
//          G tiles and 8 channels: the words of their codes, word i with bit i of every code as in linear.hpp.
// Sums     part[plane] = sum of look-ups over a group; acc += factor * part, factor = multiplier times 2^plane, the sign plane's
//          negative; binary: the multiplier of the plane alone. Equal to the plain product, because all of it is exact.
// Rounding requantize: half up, then saturation to [low, high].
// Speed    II = 1, T*G*Q / planes multiply-adds per cycle; a visit takes at least T/L*G cycles to fetch activations and one per entry
//          of a table. Codes arrive a word per cycle.
// Source   TLMM: TeLLMe (arXiv 2510.15926); planes: T-MAC (arXiv 2407.00088), LUT-GEMM (arXiv 2206.09557).

#include "attnc/linear.hpp"
#include "attnc/timing.hpp"

namespace attnc {

struct LookupLinearCall {
  int rows, k_tiles, n_tiles, low, high, steps, planes, both_signs, group_tiles, scales, visits;
  // Counts that follow: words with the codes of a step, all steps, visits of all rows; outputs, and the sums of a block and of the last one.
  int step_codes, all_steps, row_visits, outputs, block_sums, last_sums;
};

inline int steps_of(const LookupLinearCall& call) {
#pragma HLS INLINE
  return call.steps;
}

// Bits of the code of `tiles` ternary weights: the least that hold 3^tiles values.
inline int ternary_bits(int tiles) {
#pragma HLS INLINE
  return tiles == 1 ? 2 : tiles == 2 ? 4 : tiles == 3 ? 5 : tiles == 4 ? 7 : 8;
}

template <int GROUP> struct TernaryTable {
  static_assert(GROUP == 3 || GROUP == 5, "TernaryTable: 3 or 5 activations per table");
  static constexpr int G = GROUP;
  static constexpr int ENTRIES = GROUP == 3 ? 27 : 243;
  static constexpr int SIZE = GROUP == 3 ? 32 : 256;
  static constexpr int CODE_BITS = GROUP == 3 ? 5 : 8;
  static int code_bits(int tiles) { return ternary_bits(tiles); }
  // What entry `entry` multiplies activation i by: -1, 0 or 1.
  static int factor(int entry, int i, bool) {
    const int power = i == 0 ? 1 : i == 1 ? 3 : i == 2 ? 9 : i == 3 ? 27 : 81;
    return entry / power % 3 - 1;
  }
};

struct PlaneTable {
  static constexpr int G = 4;
  static constexpr int ENTRIES = 16;
  static constexpr int SIZE = 16;
  static constexpr int CODE_BITS = 4;
  static int code_bits(int tiles) { return tiles; }
  static int factor(int entry, int i, bool both_signs) { return ((entry >> i) & 1) != 0 ? 1 : both_signs ? -1 : 0; }
};

template <class Table, class XT, class PartT, class AccT, int L, int T, int Q, int K_TILES_MAX, int ROWS_MAX, int COLUMNS_MAX,
          int STEPS_MAX, int DEPTH_MAX, int SCALES_MAX>
void lookup_accumulate(hls::stream<Vec<XT, L>>& x, hls::stream<Word<L>>& w, hls::stream<Word<L>>& records,
                       hls::stream<Vec<AccT, Q>>& sums, LookupLinearCall call) {
  static_assert(Q % L == 0, "lookup_linear: Q must be a multiple of the number of lanes L");
  static_assert(T % L == 0 && T > 0, "lookup_linear: T must be a multiple of the number of lanes L");
  static_assert(width<XT>::value == 8, "lookup_linear: activations are bytes");
  static const int G = Table::G, SETS = T / L, OCTETS = (Q + 7) / 8, FETCH = SETS * G, BUILD = FETCH + Table::ENTRIES;
  typedef Int<width<XT>::value + clog2(G) + 1> entry_t;
  typedef UInt<Table::CODE_BITS> code_t;
  static Vec<XT, L> x_buffer[K_TILES_MAX][ROWS_MAX];
#pragma HLS AGGREGATE variable = x_buffer
#ifdef ATTNC_LOOKUP_LINEAR_X_BUFFER
  ATTNC_BIND(x_buffer, ATTNC_LOOKUP_LINEAR_X_BUFFER)
#endif
  static Vec<code_t, L> w_buffer[OCTETS][8][SETS][2 * DEPTH_MAX];  // of eight channels at a time
#pragma HLS AGGREGATE variable = w_buffer
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 1 complete
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 2 complete
#pragma HLS ARRAY_PARTITION variable = w_buffer dim = 3 complete
#ifdef ATTNC_LOOKUP_LINEAR_W_BUFFER
  ATTNC_BIND(w_buffer, ATTNC_LOOKUP_LINEAR_W_BUFFER)
#endif
  static UInt<8> s_buffer[Q][2 * (SCALES_MAX > 0 ? SCALES_MAX : 1)];
#pragma HLS ARRAY_PARTITION variable = s_buffer dim = 1 complete
  static Vec<PartT, Q> parts[COLUMNS_MAX];
#pragma HLS AGGREGATE variable = parts
  static Vec<AccT, Q> accs[STEPS_MAX];
#pragma HLS AGGREGATE variable = accs
  entry_t table[T][2 * Table::SIZE];
#pragma HLS ARRAY_PARTITION variable = table dim = 1 complete
#pragma HLS BIND_STORAGE variable = table type = ram_1wnr impl = lutram
  Vec<XT, L> fetched[FETCH];
#pragma HLS ARRAY_PARTITION variable = fetched complete
  Vec<code_t, L> codes[8];
#pragma HLS ARRAY_PARTITION variable = codes complete
  const int chunks = (call.k_tiles + G - 1) / G, wide_chunks = (chunks + SETS - 1) / SETS;
  const int tail_bits = Table::code_bits(call.k_tiles - G * (chunks - 1));
  const int step_records = Q * 8 / L, step_scales = call.scales * (Q / L);

READ_X_TILES:
  for (int tile = 0; tile < call.k_tiles; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = K_TILES_MAX
    ATTNC_LOOP(READ_X)
  READ_X:
    for (int row = 0; row < call.rows; ++row) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS_MAX
      ATTNC_TICK(READ_X)
      x_buffer[tile][row] = x.read();
    }
  }

  // The first round computes nothing: it loads the first block.
  int fill = 0, use_steps = 0;
BLOCKS:
  for (int first = -call.steps; first < call.all_steps; first += call.steps) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 16
    const int left = call.all_steps - first - call.steps;
    const int load_steps = left <= 0 ? 0 : left < call.steps ? left : call.steps;
    const int record_words = load_steps * step_records, scale_words = load_steps * step_scales;
    const int load_words = record_words + scale_words + load_steps * call.step_codes;
    const int columns = use_steps * call.planes, visit_slots = columns > BUILD ? columns : BUILD;
    const int busy = use_steps > 0 ? (call.row_visits + 1) * visit_slots : 0;
    const int trips = load_words > busy ? load_words : busy;
    const int use = 1 - fill;
    // Where the next word goes.
    int scale = 0, scale_tile = 0, load_column = 0, load_chunk = 0, load_set = 0, load_wide = 0, octet = 0, bit = 0;
    // The visit whose tables are built, tiles [begin, end) of a wide chunk from tile `base`; and the visit that is looked up.
    int slot = 0, half = 0, row = 0, begin = 0, base = 0, wide = 0, group = 0, group_end = call.group_tiles;
    int seen_wide = 0, seen_group = 0, step = 0, plane = 0;
    bool building = true, seen = false, first_visit = true, seen_first = false, seen_ends = false, seen_last = false;
    Vec<AccT, Q> running;
    ATTNC_LOOP(LOOK_UP)
  LOOK_UP:
    for (int i = 0; i < trips; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4096
#pragma HLS DEPENDENCE variable = w_buffer inter false
#pragma HLS DEPENDENCE variable = s_buffer inter false
      ATTNC_TICK(LOOK_UP)
// A column returns to its sum after visit_slots >= FETCH + ENTRIES cycles; tables are written and read in different halves.
#pragma HLS DEPENDENCE variable = parts inter distance = BUILD true
#pragma HLS DEPENDENCE variable = accs inter distance = BUILD true
#pragma HLS DEPENDENCE variable = table inter false
      if (i < load_words) {
        const Word<L> word = w.read();
        if (i < record_words) {
          records.write(word);
        } else if (SCALES_MAX > 0 && i < record_words + scale_words) {
          for (int q = 0; q < Q; ++q) {
#pragma HLS UNROLL
            if (q / L == scale_tile) s_buffer[q][fill * SCALES_MAX + scale] = word.v[q % L];
          }
          scale_tile = scale_tile + 1 == Q / L ? 0 : scale_tile + 1;
          scale = scale_tile == 0 ? scale + 1 : scale;
        } else {
          const bool last_chunk = load_chunk + 1 == chunks;
          add_code_bit<code_t, L>(codes, word, bit);
          if (++bit == (last_chunk ? tail_bits : Table::CODE_BITS)) {
            bit = 0;
            const int at = fill * DEPTH_MAX + load_column * wide_chunks + load_wide;
            for (int v = 0; v < 8; ++v) {
#pragma HLS UNROLL
              if (octet * 8 + v < Q) w_buffer[octet][v][load_set][at] = codes[v];
            }
            octet = octet + 1 == OCTETS ? 0 : octet + 1;
            if (octet == 0) {
              load_chunk = last_chunk ? 0 : load_chunk + 1;
              load_column = last_chunk ? load_column + 1 : load_column;
              load_wide = last_chunk ? 0 : load_set + 1 == SETS ? load_wide + 1 : load_wide;
              load_set = last_chunk || load_set + 1 == SETS ? 0 : load_set + 1;
            }
          }
        }
      }
      if (i < busy) {
        const int chunk_end = base + FETCH < call.k_tiles ? base + FETCH : call.k_tiles;
        const int end = chunk_end < group_end ? chunk_end : group_end;
        if (building && slot < FETCH) {
          const int tile = base + slot;
          const bool inside = tile >= begin && tile < end;
          const Vec<XT, L> xs = x_buffer[inside ? tile : 0][row];
          for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
            fetched[slot].v[l] = inside ? xs.v[l] : XT(0);
          }
        }
        if (building && slot >= FETCH && slot < BUILD) {
          const int entry = slot - FETCH;
          entry_t sum[T];
          for (int g = 0; g < G; ++g) {
#pragma HLS UNROLL
            const int factor = Table::factor(entry, g, call.both_signs != 0);
            for (int s = 0; s < SETS; ++s) {
#pragma HLS UNROLL
              for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                const entry_t value = entry_t(fetched[s * G + g].v[l]);
                const entry_t term = factor > 0 ? value : factor < 0 ? entry_t(-value) : entry_t(0);
                sum[s * L + l] = g == 0 ? term : entry_t(sum[s * L + l] + term);
              }
            }
          }
          for (int t = 0; t < T; ++t) {
#pragma HLS UNROLL
            table[t][half * Table::SIZE + entry] = sum[t];
          }
        }
        if (seen && slot < columns) {
          const int at = use * DEPTH_MAX + slot * wide_chunks + seen_wide, read_half = (1 - half) * Table::SIZE;
          Vec<PartT, Q> part = parts[slot];
          for (int q = 0; q < Q; ++q) {
#pragma HLS UNROLL
            PartT sum = 0;
            for (int s = 0; s < SETS; ++s) {
#pragma HLS UNROLL
              const Vec<code_t, L>& code = w_buffer[q / 8][q % 8][s][at];
              for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
                sum += PartT(table[s * L + l][read_half + int(code.v[l])]);
              }
            }
            part.v[q] = seen_first ? sum : PartT(part.v[q] + sum);
          }
          parts[slot] = part;
          if (seen_ends) {
            const int group_scale = call.both_signs != 0 ? seen_group * call.planes + plane : seen_group;
            const Vec<AccT, Q> before = accs[step];
            for (int q = 0; q < Q; ++q) {
#pragma HLS UNROLL
              AccT value = AccT(part.v[q]);
              if (SCALES_MAX > 0) {
                const UInt<8> multiplier = call.scales > 0 ? s_buffer[q][use * SCALES_MAX + step * call.scales + group_scale] : UInt<8>(1);
                value = AccT(value * AccT(multiplier));
              }
              // A shift; planes come highest first.
              if (call.both_signs == 0) value = AccT(value * AccT(AccT(1) << (call.planes - 1 - plane)));
              if (call.both_signs == 0 && call.planes > 1 && plane == 0) value = AccT(-value);
              running.v[q] = plane > 0 ? AccT(running.v[q] + value) : seen_group > 0 ? AccT(before.v[q] + value) : value;
            }
            if (plane + 1 == call.planes) {
              accs[step] = running;
              if (seen_last) sums.write(running);
            }
          }
          plane = plane + 1 == call.planes ? 0 : plane + 1;
          step = plane == 0 ? step + 1 : step;
        }
        if (++slot == visit_slots) {
          // The tables just built are looked up next; the next visit follows in the group, chunk or row.
          slot = step = plane = 0;
          half = 1 - half;
          seen = building;
          seen_wide = wide;
          seen_group = group;
          seen_first = first_visit;
          seen_ends = end == group_end || end == call.k_tiles;
          seen_last = end == call.k_tiles;
          first_visit = seen_ends;
          group = seen_last ? 0 : seen_ends ? group + 1 : group;
          group_end = seen_last ? call.group_tiles : seen_ends ? group_end + call.group_tiles : group_end;
          wide = seen_last ? 0 : end == base + FETCH ? wide + 1 : wide;
          base = seen_last ? 0 : end == base + FETCH ? end : base;
          begin = seen_last ? 0 : end;
          row = seen_last ? row + 1 : row;
          building = row < call.rows;
        }
      }
    }
    fill = use;
    use_steps = load_steps;
  }
}

}  // namespace attnc
