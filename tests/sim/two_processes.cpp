// Small programs whose times can be found by hand. The first argument names one.

#include "attnc/timing.hpp"

#include <hls_burst_maxi.h>
#include <hls_stream.h>

#include <cstdlib>
#include <string>

typedef hls::stream<int> Stream;

void produce(Stream& out, int count) {
  ATTNC_LOOP(PRODUCE)
PRODUCE:
  for (int i = 0; i < count; ++i) {
    ATTNC_TICK(PRODUCE)
    out.write(i);
  }
}

void relay(Stream& in, Stream& out, int count) {
  ATTNC_LOOP(RELAY)
RELAY:
  for (int i = 0; i < count; ++i) {
    ATTNC_TICK(RELAY)
    out.write(in.read());
  }
}

void consume(Stream& in, int count) {
  ATTNC_LOOP(CONSUME)
CONSUME:
  for (int i = 0; i < count; ++i) {
    ATTNC_TICK(CONSUME)
    if (in.read() != i) std::exit(9);
  }
}

// Gives a token, and each further one when the one before has come back.
void answer(Stream& back, Stream& out, int count) {
  out.write(0);
  for (int i = 1; i < count; ++i) out.write(back.read() + 1);
  back.read();
}

void load(hls::burst_maxi<long> memory, int first, int second) {
  memory.read_request(0, first);
  if (second > 0) memory.read_request(0, second);
  ATTNC_LOOP(LOAD)
LOAD:
  for (int i = 0; i < first + second; ++i) {
    ATTNC_TICK(LOAD)
    memory.read();
  }
}

// Takes nothing for a while.
void load_late(hls::burst_maxi<long> memory, int count, int later) {
  memory.read_request(0, count);
  ATTNC_LOOP(LOAD)
LOAD:
  for (int i = 0; i < later + count; ++i) {
    ATTNC_TICK(LOAD)
    if (i >= later) memory.read();
  }
}

void store(hls::burst_maxi<long> memory, int count) {
  memory.write_request(0, count);
  {
    ATTNC_LOOP(STORE)
  STORE:
    for (int i = 0; i < count; ++i) {
      ATTNC_TICK(STORE)
      memory.write(i);
    }
  }
  memory.write_response();
}

void pair(int count) {
  Stream fifo("fifo");
  ATTNC_DEPTH(fifo, 2)
  ATTNC_REGION
  ATTNC_PROCESS("produce", produce(fifo, count);)
  ATTNC_PROCESS("consume", consume(fifo, count);)
}

void three(int count) {
  Stream in("in"), out("out");
  ATTNC_DEPTH(in, 4)
  ATTNC_DEPTH(out, 8)
  ATTNC_REGION
  ATTNC_PROCESS("produce", produce(in, count);)
  ATTNC_PROCESS("relay", relay(in, out, count);)
  ATTNC_PROCESS("consume", consume(out, count);)
}

void loop(int count) {
  Stream there("there"), back("back");
  ATTNC_DEPTH(there, 2)
  ATTNC_DEPTH(back, 2)
  ATTNC_REGION
  ATTNC_PROCESS("relay", relay(there, back, count);)
  ATTNC_PROCESS("answer", answer(back, there, count);)
}

// What comes first is what the reader wants last.
void crossed(int count) {
  Stream first("first"), second("second");
  ATTNC_DEPTH(first, 4)
  ATTNC_DEPTH(second, 4)
  ATTNC_REGION
  ATTNC_PROCESS("writer", produce(first, count); produce(second, count);)
  ATTNC_PROCESS("reader", consume(second, count); consume(first, count);)
}

int main(int, char** argv) {
  const std::string name = argv[1];
  attnc::cosim::Simulation& simulation = attnc::cosim::Simulation::get();
  simulation.load(std::getenv("ATTNC_COSIM_SETTINGS"));
  simulation.report_path = std::getenv("ATTNC_COSIM_REPORT");
  static long memory[2000] = {0};
  hls::burst_maxi<long> a(memory), b(memory);
  simulation.run([&] {
    ATTNC_PORT(a)
    ATTNC_PORT(b)
    if (name == "pair") pair(10);
    if (name == "three") three(10);
    if (name == "loop") loop(3);
    if (name == "crossed") crossed(7);
    if (name == "load") load(a, 20, 0);
    if (name == "load twice") load(a, 8, 8);
    if (name == "store") store(a, 5);
    if (name == "load late") load_late(a, 20, 200);
    if (name == "store much") store(a, 2000);
    if (name == "store 1000") store(a, 1000);
    if (name == "a late one beside") {
      ATTNC_REGION
      ATTNC_PROCESS("late", load_late(a, 2000, 3200);)
      ATTNC_PROCESS("soon", load(b, 2000, 0);)
    }
    if (name == "two loads") {
      ATTNC_REGION
      ATTNC_PROCESS("first", load(a, 20, 0);)
      ATTNC_PROCESS("second", load(b, 20, 0);)
    }
  });
  simulation.report(simulation.report_path);
  return 0;
}
