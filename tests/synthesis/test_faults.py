"""A fault of every kind, planted into a source that has none, is found where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthesis.lint import lint
from synthesis.pragmas import mistakes, parse
from synthesis.program import Program

SOUND = """\
#include <ap_int.h>
#include <hls_burst_maxi.h>
#include <hls_stream.h>

template <class T, int N> struct alignas(N * sizeof(T)) Vec {
  T v[N];
};
static const int L = 4, ROWS = 16;

#define PRAGMA(text) _Pragma(#text)
#define BIND_STORAGE(text) PRAGMA(text)
#define BIND(name, place) BIND_STORAGE(HLS BIND_STORAGE variable = name type = ram_s2p impl = place)
#define PLACE bram

typedef Vec<ap_uint<8>, L> word_t;
typedef Vec<ap_int<16>, L> vec_t;

int entry(int at) {
#pragma HLS INLINE
  static const ap_int<16> rom[4] = {1, 2, 3, 5};
#pragma HLS BIND_STORAGE variable = rom type = rom_np
  return rom[at & 3];
}

void raise(ap_int<16>& top, ap_int<16> value) {
#pragma HLS INLINE
  if (top < value) top = value;
}

void load(hls::burst_maxi<word_t> memory, int count, hls::stream<word_t>& words) {
  if (count > 0) memory.read_request(0, count);
LOAD:
  for (int i = 0; i < count; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4 * ROWS
    words.write(memory.read());
  }
}

template <int SIDES> void add_up(hls::stream<word_t>& words, hls::stream<vec_t>& sums, int rows) {
  static ap_int<16> peaks[ROWS], banks[2][L];
#pragma HLS ARRAY_PARTITION variable = banks complete dim = 0
  static vec_t held[SIDES][ROWS];
#pragma HLS AGGREGATE variable = held
  BIND(held, PLACE)
  word_t first;
#pragma HLS ARRAY_PARTITION variable = first.v complete
  int side = 0;
ADD:
  for (int i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS
#pragma HLS DEPENDENCE variable = peaks inter false
    const word_t word = words.read();
    if (i == 0) first = word;
    ap_int<16> largest = 0;
    vec_t out;
    for (int l = 0; l < L; ++l) {
#pragma HLS UNROLL
      largest = largest < word.v[l] ? ap_int<16>(word.v[l]) : largest;
      banks[side][l] += word.v[l];
      out.v[l] = entry(word.v[l]) + first.v[i % L];
    }
    const ap_int<16> peak = peaks[i];
    peaks[i] = peak < largest ? largest : peak;
    held[side][i] = out;
    sums.write(held[1 - side][i]);
    side = 1 - side;
  }
}

void store(hls::stream<vec_t>& sums, int rows, hls::burst_maxi<vec_t> memory) {
STORE:
  for (int i = 0; i < rows; ++i) {
#pragma HLS PIPELINE II = 1
#pragma HLS LOOP_TRIPCOUNT min = 1 max = ROWS
    memory.write_request(i, 1);
    memory.write(sums.read());
    memory.write_response();
  }
}

void note(int seen[4]) { seen[0] = 1; }

void region(hls::burst_maxi<word_t> memory, hls::burst_maxi<vec_t> results, hls::burst_maxi<word_t> more_memory,
            hls::burst_maxi<vec_t> more_results, int rows) {
#pragma HLS DATAFLOW
  hls::stream<word_t> words("words");
#pragma HLS STREAM variable = words depth = 2
  hls::stream<vec_t> sums("sums");
#pragma HLS STREAM variable = sums depth = 2
  load(memory, rows, words);
  add_up<2>(words, sums, rows);
  store(sums, rows, results);
}

extern "C" void top(hls::burst_maxi<word_t> memory, hls::burst_maxi<vec_t> results, hls::burst_maxi<word_t> more_memory,
                    hls::burst_maxi<vec_t> more_results, int rows) {
#pragma HLS INTERFACE m_axi port = memory bundle = memory offset = slave depth = 64
#pragma HLS INTERFACE m_axi port = results bundle = results offset = slave depth = 64
#pragma HLS INTERFACE m_axi port = more_memory bundle = memory offset = slave depth = 64
#pragma HLS INTERFACE m_axi port = more_results bundle = results offset = slave depth = 64
#pragma HLS INTERFACE s_axilite port = return
  region(memory, results, more_memory, more_results, rows);
}
"""
LANES = "    for (int l = 0; l < L; ++l) {\n#pragma HLS UNROLL\n"
CHAIN = "    const ap_int<16> peak = peaks[i];\n    peaks[i] = peak < largest ? largest : peak;\n"

Fault = tuple[str, str, str, str]
"""What is replaced, what by, the rule that says it, the text of the line where."""
FAULTS: dict[str, Fault] = {
    "a region decides": (
        "  store(sums, rows, results);\n", "  if (rows > 0) store(sums, rows, results);\n", "region", "if (rows > 0) store"),
    "a region computes": (
        "  load(memory, rows, words);", "  load(memory, rows + 1, words);", "region", "rows + 1"),
    "a region has a value": (
        "  load(memory, rows, words);", "  const int more = 2 * rows;\n  load(memory, more, words);", "region", "2 * rows"),
    "a stream has two readers": (
        "  store(sums, rows, results);\n", "  store(sums, rows, results);\n  add_up<1>(words, sums, rows);\n", "stream", 'words("words")'),
    "a stream has no reader": ("  store(sums, rows, results);\n}", "}", "stream", 'sums("sums")'),
    "a stream goes back": ("  load(memory, rows, words);\n  add_up<2>(words, sums, rows);\n",
                           "  add_up<2>(words, sums, rows);\n  load(memory, rows, words);\n", "stream", 'words("words")'),
    "two processes have a static array": (
        "  add_up<2>(words, sums, rows);\n",
        '  hls::stream<word_t> more("more");\n  hls::stream<vec_t> gone("gone");\n  load(more_memory, rows, more);\n'
        "  add_up<2>(words, sums, rows);\n  add_up<2>(more, gone, rows);\n  store(gone, rows, more_results);\n",
        "static", "add_up<2>(more"),
    "two processes are handed a static array": (
        '  hls::stream<word_t> words("words");\n',
        '  static int kept[4];\n  note(kept);\n  note(kept);\n  hls::stream<word_t> words("words");\n', "static", "note(kept)"),
    "two processes have a port": ("  store(sums, rows, results);\n", '  hls::stream<word_t> more("more");\n  load(memory, rows, more);\n'
                                  '  hls::stream<vec_t> gone("gone");\n  add_up<1>(more, gone, rows);\n  store(sums, rows, results);\n'
                                  "  store(gone, rows, more_results);\n", "port", "rows, more);"),
    "a loop without a label": ("STORE:\n", "", "loop", "i < rows; ++i"),
    "a loop without a bound": ("#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4 * ROWS\n", "", "loop", "i < count"),
    "a loop that is nothing": (
        "#pragma HLS PIPELINE II = 1\n#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4", "#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4",
        "loop", "i < count"),
    "a loop that waits": ("  int side = 0;\n", "  int side = 0;\nWAIT:\n  while (words.empty()) ++side;\n", "loop", "while"),
    "a loop in a pipeline": (LANES, "  LANES:\n    for (int l = 0; l < L; ++l) {\n", "loop", "l < L"),
    "lanes that nobody can count": (LANES, LANES.replace("l < L", "l < rows"), "loop", "l < rows"),
    "no such pragma": ("#pragma HLS AGGREGATE variable = held", "#pragma HLS DATA_PACK variable = held", "pragma", "DATA_PACK"),
    "not for the tool": ("#pragma HLS AGGREGATE variable = held", "#pragma HSL AGGREGATE variable = held", "pragma", "HSL"),
    "no such option": ("PIPELINE II = 1", "PIPELINE II = 1 depth = 3", "pragma", "depth = 3"),
    "no such value": ("port = memory bundle = memory offset = slave", "port = memory bundle = memory offset = master", "pragma", "master"),
    "no such word": ("peaks inter false", "peaks inter never", "pragma", "never"),
    "an option is missing": ("variable = name type = ram_s2p", "variable = name", "pragma", "BIND(held"),
    "an option of another mode": ("s_axilite port = return", "s_axilite port = return latency = 2", "pragma", "latency = 2"),
    "an option that is said twice": ("banks complete dim = 0", "banks complete type = block factor = 2 dim = 0", "pragma", "factor = 2"),
    "options that do not go together": ("peaks inter false", "peaks inter false distance = 2", "pragma", "distance = 2"),
    "ports of what is not synthesized": (
        "#pragma HLS DATAFLOW\n", "#pragma HLS DATAFLOW\n#pragma HLS INTERFACE ap_none port = rows\n", "pragma", "ap_none"),
    "a depth is missing": ("words depth = 2", "words", "pragma", "STREAM variable = words"),
    "an interval is missing": ("PIPELINE II = 1", "PIPELINE", "pragma", "HLS PIPELINE"),
    "a memory that is not made": ("rom type = rom_np", "rom type = rom_np impl = uram", "pragma", "uram"),
    "a macro that names nothing": ("BIND(held, PLACE)", "BIND(help, PLACE)", "pragma", "BIND(help"),
    "a macro with a place that is none": ("#define PLACE bram", "#define PLACE flash", "pragma", "BIND(held"),
    "a variable that is not there": ("AGGREGATE variable = held", "AGGREGATE variable = help", "pragma", "help"),
    "a variable that comes later": ("  static vec_t held[SIDES][ROWS];\n#pragma HLS AGGREGATE variable = held\n",
                                    "#pragma HLS AGGREGATE variable = held\n  static vec_t held[SIDES][ROWS];\n", "pragma", "AGGREGATE"),
    "a field that is not there": ("variable = first.v", "variable = first.w", "pragma", "first.w"),
    "a dimension that is not there": ("banks complete dim = 0", "banks complete dim = 3", "pragma", "dim = 3"),
    "a constant that is not there": ("max = 4 * ROWS", "max = 4 * ROWS_MAX", "pragma", "ROWS_MAX"),
    "a FIFO that is none": ("STREAM variable = words", "STREAM variable = rows", "pragma", "STREAM variable = rows"),
    "a pragma in front of its loop": ("LOAD:\n", "#pragma HLS UNROLL\nLOAD:\n", "pragma", "HLS UNROLL"),
    "a pragma behind a statement": ("    const word_t word = words.read();\n", "    const word_t word = words.read();\n"
                                    "#pragma HLS DEPENDENCE variable = banks inter false\n", "pragma", "banks inter"),
    "a lane that is chosen": ("#pragma HLS ARRAY_PARTITION variable = first.v complete\n", "", "partition", "first = word"),
    "lanes in one memory": ("#pragma HLS AGGREGATE variable = held\n", "", "partition", "held[side][i] = out"),
    "lanes of a table": ("#pragma HLS BIND_STORAGE variable = rom type = rom_np\n", "", "partition", "rom[at & 3]"),
    "lanes of a row of memory": ("banks complete dim = 0", "banks complete dim = 1", "partition", "banks[side][l] +="),
    "lanes that choose": ("first.v[i % L]", "first.v[(i + l) % L]", "lanes", "(i + l) % L"),
    "bytes at a port": ("struct alignas(N * sizeof(T)) Vec", "struct Vec", "word", "extern"),
    "a chain of comparisons": (
        "    ap_int<16> largest = 0;\n", "    ap_int<16> largest = peaks[i];\n", "chain", "largest = largest < word.v[l]"),
    "a chain on the element": (CHAIN, CHAIN + LANES + "      peaks[i] += word.v[l];\n    }\n", "chain", "peaks[i] += word.v[l]"),
    "a chain of conditions": (
        "    ap_int<16> largest = 0;\n",
        "    ap_int<16> top = peaks[i], largest = 0;\n" + LANES
        + "      if (top < word.v[l]) top = word.v[l];\n    }\n    peaks[i] = top;\n", "chain", "top = word.v[l]"),
    "a chain through a function": (
        "    ap_int<16> largest = 0;\n",
        "    ap_int<16> top = peaks[i], largest = 0;\n" + LANES + "      raise(top, word.v[l]);\n    }\n    peaks[i] = top;\n",
        "chain", "raise(top"),
    "floating point": ("  int side = 0;", "  int side = 0;\n  double share = rows;", "code", "double share"),
    "a number with a point": ("  int side = 0;", "  int side = rows * 0.5;", "code", "0.5"),
    "a heap": ("  int side = 0;", "  int side = *new int(0);", "code", "new int"),
    "an exception": ("  int side = 0;", "  int side = 0;\n  if (rows < 0) throw 1;", "code", "throw 1"),
    "a function that calls itself": ("  return rom[at & 3];", "  return at > 3 ? entry(at - 4) : int(rom[at & 3]);", "code", "int entry"),
    "a function without a body": ("  return rom[at & 3];", "  int abs(int);\n  return rom[abs(at) & 3];", "code", "rom[abs(at)"),
    "a virtual function": (
        "  int side = 0;", "  struct Shape { virtual int sides() { return 4; } } shape;\n  int side = shape.sides();",
        "code", "virtual int"),
}  # fmt: skip
FOLLOWS: dict[str, set[str]] = {
    "bytes at a port": {"word"},
    "a stream has two readers": {"stream"}, "two processes have a port": {"stream"}, "no such pragma": {"partition"},
    "not for the tool": {"partition"}, "a variable that is not there": {"partition"}, "a dimension that is not there": {"partition"},
}  # fmt: skip
"""What else is wrong then."""
WRONG = (
    "ALLOCATION instances = mul", "ARRAY_PARTITION variable = a cyclic", "ARRAY_PARTITION variable = a factor = 2",
    "BIND_OP variable = a op = mul impl = qadder", "BIND_STORAGE variable = a type = ram_2p impl = bram_ecc",
    "BIND_STORAGE variable = a type = rom_np impl = uram", "DEPENDENCE variable = a array inter false",
    "DEPENDENCE variable = a intra RAW false", "DEPENDENCE variable = a inter RAW distance = 4", "INTERFACE port = a",
    "INTERFACE axis port = a bundle = b", "INTERFACE m_axi port = a register", "INTERFACE m_axi port = a s_axilite",
    "INTERFACE m_axi port = a offset = 16", "INTERFACE ap_ctrl_none", "LATENCY", "PIPELINE II = 1 off style = flp",
    "PIPELINE II = 1 rewind style = flp", "UNROLL skip_exit_check", "STABLE", "LOOP_TRIPCOUNT min = 1",
)  # fmt: skip
RIGHT = (
    "AGGREGATE variable = a compact = bit", "ALLOCATION operation instances = mul limit = 1",
    "ARRAY_PARTITION variable = a type = cyclic factor = 2", "ARRAY_RESHAPE variable = a block factor = 4 dim = 2",
    "BIND_OP variable = a op = mul impl = fabric latency = 2", "BIND_STORAGE variable = a type = ram_s2p impl = uram_ecc",
    "DEPENDENCE variable = a inter RAW distance = N + 1 true", "DEPENDENCE array intra false",
    "DEPENDENCE variable = a type = inter direction = WAR dependent = false", "INLINE off",
    "INTERFACE mode = s_axilite port = a offset = 16", "INTERFACE axis port = a register_mode = both",
    "INTERFACE ap_ctrl_none port = return", "LATENCY max = 4", "LOOP_TRIPCOUNT max = 8", "PERFORMANCE target_ti = 100", "PIPELINE off",
    "PIPELINE II = 2 style = frp", "STREAM variable = a type = pipo", "UNROLL factor = 2 skip_exit_check",
)  # fmt: skip


def findings(folder: Path, text: str) -> list[tuple[str, str]]:
    """(rule, text of the line) of each."""
    source = folder / "top.cpp"
    source.write_text(text)
    return [(one.rule, text.splitlines()[one.line - 1]) for one in lint(Program(source, [], "top"))]


def test_a_sound_source_has_none(tmp_path: Path) -> None:
    assert findings(tmp_path, SOUND) == []


@pytest.mark.parametrize("name", FAULTS)
def test_is_found(name: str, tmp_path: Path) -> None:
    old, new, rule, where = FAULTS[name]
    assert old in SOUND
    found = findings(tmp_path, SOUND.replace(old, new, 1))
    assert [(one, line) for one, line in found if one == rule and where in line], found
    assert {one for one, line in found if one != rule or where not in line} <= FOLLOWS.get(name, set()), found


@pytest.mark.parametrize("text", WRONG)
def test_a_pragma_that_the_tool_refuses(text: str) -> None:
    assert mistakes(parse(Path(), 1, text))


@pytest.mark.parametrize("text", RIGHT)
def test_a_pragma_that_the_tool_takes(text: str) -> None:
    assert not mistakes(parse(Path(), 1, text))
