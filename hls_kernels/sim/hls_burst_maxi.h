#pragma once
// hls::burst_maxi for simulation with a plain C++ compiler: memory that is asked for before it is read or written, loudly.
//
// Reading or writing what was not asked for ends the simulation. With ATTNC_COSIM requests and beats take time, see attnc_cosim.h.

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>

#ifdef ATTNC_COSIM
#include "attnc_cosim.h"
#endif

namespace hls {

#ifdef ATTNC_COSIM
namespace cosim = attnc::cosim;
#endif

template <class T> class burst_maxi {
 public:
  burst_maxi(T* memory) : memory_(memory) {}  // NOLINT: implicit as in the vendor's class

  void read_request(std::size_t offset, std::size_t length) {
    ask(read_, offset, length);
    request(length);
  }
  T read() {
    Burst& burst = next(read_, "read");
    bring(burst);
    const T value = memory_[burst.offset + burst.done++];
    took(burst);
    if (burst.done == burst.length) pop(read_);
    return value;
  }
  void write_request(std::size_t offset, std::size_t length) {
    ask(write_, offset, length);
  }
  void write(const T& value) {
    Burst& burst = next(write_, "write");
    make_room(burst);
    memory_[burst.offset + burst.done++] = value;
    gave(burst);
    if (burst.done == burst.length) {
      pop(write_);
      ++answers_;
    }
  }
  // Of a beat the bytes whose bit is set.
  template <class Mask> void write(const T& value, const Mask& bytes) {
    const Burst& burst = next(write_, "write");
    T merged = memory_[burst.offset + burst.done];
    for (std::size_t at = 0; at < sizeof(T); ++at)
      if ((static_cast<unsigned long long>(bytes) >> at) & 1)
        reinterpret_cast<unsigned char*>(&merged)[at] = reinterpret_cast<const unsigned char*>(&value)[at];
    write(merged);
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
  burst_maxi(const burst_maxi& other) : interface_(other.interface_), memory_(other.memory_) {}
  ~burst_maxi() {
    for (const auto& channel : channels_)
      if (channel) interface_->port->leave(channel.get());
  }
  void name(const char* pointer) { interface_ = cosim::Simulation::get().interface(pointer); }

 private:
  typedef cosim::Channel Channel;
  typedef cosim::Time Time;

  // Of this process, from its first request on.
  Channel& channel(int write) {
    if (!interface_) fail("an argument of the accelerator without a name");
    if (!channels_[write]) channels_[write] = interface_->port->enter(write, int(sizeof(T)));
    return *channels_[write];
  }
  void request(std::size_t length) {
    cosim::Simulation& s = cosim::Simulation::get();
    const Time from = s.current->now + s.read_latency;
    for (std::size_t beats = 0; beats < length; beats += cosim::CHUNK)
      channel(0).asked.push({from, int(std::min(length - beats, std::size_t(cosim::CHUNK))), false});
    s.look(interface_->port->lanes[0], channel(0));
  }
  // Waits until the beat is there.
  void bring(const Burst& burst) {
    Channel& c = channel(0);
    const std::size_t at = burst.done % cosim::CHUNK;
    if (at == 0) cosim::await(c, [&] { return c.served > c.taken; });
    cosim::stand(c.served_at[c.taken % cosim::AHEAD] + Time(at), interface_);
  }
  // The last beat of a chunk makes room for another one.
  void took(const Burst& burst) {
    if (burst.done % cosim::CHUNK && burst.done < burst.length) return;
    cosim::Simulation& s = cosim::Simulation::get();
    channel(0).take(s.current->now + 1);
    s.look(interface_->port->lanes[0], channel(0));
  }
  // Waits for a place in the adapter.
  void make_room(const Burst& burst) {
    if (burst.done % cosim::CHUNK) return;
    Channel& c = channel(1);
    cosim::await(c, [&] { return c.asked.size() < std::size_t(cosim::AHEAD); });
    const std::int64_t given = c.served + std::int64_t(c.asked.size());
    if (given >= cosim::AHEAD) cosim::stand(c.served_at[given % cosim::AHEAD], interface_);
  }
  // A chunk can pass the port so that its last beat does as soon as it has left the pipeline.
  void gave(const Burst& burst) {
    if (burst.done % cosim::CHUNK && burst.done < burst.length) return;
    cosim::Simulation& s = cosim::Simulation::get();
    const Time left = s.current->now + (s.current->loop ? s.current->loop->depth - 1 : 0);
    const int beats = int((burst.done - 1) % cosim::CHUNK + 1);
    channel(1).asked.push({left + 1 - beats, beats, burst.done == burst.length});
    s.look(interface_->port->lanes[1], channel(1));
  }
  void answer() {
    Channel& c = channel(1);
    cosim::await(c, [&] { return !c.ends.empty(); });
    cosim::stand(c.ends.pop() + cosim::Simulation::get().write_response, interface_);
  }
  cosim::Interface* interface_ = nullptr;
  std::unique_ptr<cosim::Channel> channels_[2];
#else
  void request(std::size_t) {}
  void bring(const Burst&) {}
  void took(const Burst&) {}
  void make_room(const Burst&) {}
  void gave(const Burst&) {}
  void answer() {}
#endif

  T* memory_;
  Bursts read_, write_;
  std::size_t answers_ = 0;
};

}  // namespace hls
