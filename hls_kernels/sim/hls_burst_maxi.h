#pragma once
// hls::burst_maxi for simulation with a plain C++ compiler: memory that is asked for before it is read or written, loudly.
//
// Reading or writing what was not asked for ends the simulation. With ATTNC_COSIM requests and beats take time, see attnc_cosim.h.

#include <cstddef>
#include <cstdio>
#include <cstdlib>

#ifdef ATTNC_COSIM
#include "attnc_cosim.h"
#endif

namespace hls {

template <class T> class burst_maxi {
 public:
  burst_maxi(T* memory) : memory_(memory) {}  // NOLINT: implicit as in the vendor's class

  void read_request(std::size_t offset, std::size_t length) {
    ask(read_, offset, length);
    request(0);
  }
  T read() {
    Burst& burst = next(read_, "read");
    beat(read_, burst, 0);
    const T value = memory_[burst.offset + burst.done++];
    if (burst.done == burst.length) pop(read_);
    return value;
  }
  void write_request(std::size_t offset, std::size_t length) {
    ask(write_, offset, length);
    request(1);
  }
  void write(const T& value) {
    Burst& burst = next(write_, "write");
    beat(write_, burst, 1);
    memory_[burst.offset + burst.done++] = value;
    if (burst.done == burst.length) {
      pop(write_);
      complete();
    }
  }
  void write_response() {
    if (answers_ == 0) fail("an answer to a write that is not complete");
    answer();
    --answers_;
  }

 private:
  static const int IN_FLIGHT = 64;
  struct Burst {
    std::size_t offset, length, done;
#ifdef ATTNC_COSIM
    attnc::cosim::Time asked, chunk;
#endif
  };
  struct Bursts {
    Burst bursts[IN_FLIGHT];
    int first = 0, count = 0;
  };

  [[noreturn]] static void fail(const char* what) {
    std::fprintf(stderr, "hls::burst_maxi: %s\n", what);
    std::fflush(nullptr);
    std::_Exit(3);
  }
  static void ask(Bursts& bursts, std::size_t offset, std::size_t length) {
    if (bursts.count == IN_FLIGHT) fail("too many requests in flight");
    if (length == 0) fail("a request of no length");
    Burst& burst = bursts.bursts[(bursts.first + bursts.count++) % IN_FLIGHT];
    burst.offset = offset;
    burst.length = length;
    burst.done = 0;
  }
  static Burst& next(Bursts& bursts, const char*) {
    if (bursts.count == 0) fail("an access without a request");
    return bursts.bursts[bursts.first];
  }
  static void pop(Bursts& bursts) {
    bursts.first = (bursts.first + 1) % IN_FLIGHT;
    --bursts.count;
  }

#ifdef ATTNC_COSIM
 public:
  void name(const char* pointer) { interface_ = attnc::cosim::Simulation::get().interface(pointer); }

 private:
  void request(int write) {
    Bursts& bursts = write ? write_ : read_;
    Burst& burst = bursts.bursts[(bursts.first + bursts.count - 1) % IN_FLIGHT];
    burst.asked = attnc::cosim::Simulation::get().current->now;
    burst.chunk = 0;
  }
  void beat(Bursts&, Burst& burst, int write) {
    namespace cosim = attnc::cosim;
    cosim::Simulation& s = cosim::Simulation::get();
    if (burst.done % cosim::CHUNK == 0) {
      const std::size_t left = burst.length - burst.done;
      const int beats = int(left < std::size_t(cosim::CHUNK) ? left : std::size_t(cosim::CHUNK));
      if (!interface_) fail("an argument of the accelerator without a name");
      burst.chunk = s.reserve(*interface_, write, write ? 0 : burst.asked + s.read_latency, beats, int(sizeof(T)));
    }
    cosim::stand(burst.chunk + cosim::Time(burst.done % cosim::CHUNK), interface_);
  }
  // The last beat leaves the pipeline as late as any write.
  void complete() {
    attnc::cosim::Fiber& f = *attnc::cosim::Simulation::get().current;
    done_.push(f.now + (f.loop ? f.loop->depth - 1 : 0));
    ++answers_;
  }
  void answer() { attnc::cosim::stand(done_.pop() + attnc::cosim::Simulation::get().write_response, interface_); }
  attnc::cosim::Interface* interface_ = nullptr;
  attnc::cosim::Ring<attnc::cosim::Time> done_;
#else
  void complete() { ++answers_; }
  void request(int) {}
  void beat(Bursts&, Burst&, int) {}
  void answer() {}
#endif

  T* memory_;
  Bursts read_, write_;
  std::size_t answers_ = 0;
};

}  // namespace hls
