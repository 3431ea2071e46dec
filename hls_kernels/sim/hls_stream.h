#pragma once
// hls::stream for simulation with a plain C++ compiler: a queue that is loud.
//
// Reading an empty stream, and data left over when a stream dies, end the simulation with the stream's name: both are
// errors in hardware too (a hang, or results that shift into the next run). The depth that each stream reached is recorded;
// print it with hls::stream_report().
//
// With ATTNC_COSIM streams are bounded and their tokens carry times, see attnc_cosim.h; with ATTNC_RECORD what passes them is kept, see
// attnc_record.h.

#ifdef ATTNC_COSIM

#include "attnc_cosim.h"

namespace hls {

template <class T, int DEPTH = 0> class stream : public attnc::cosim::StreamBase {
 public:
  stream() : StreamBase("unnamed") {}
  explicit stream(const char* name) : StreamBase(name) {}
  ~stream() {
    if (values_.empty()) return;
    std::fprintf(stderr, "hls::stream '%s': left over when the stream ended, elements (%zu)\n", stats().path.c_str(), values_.size());
    std::fflush(nullptr);
    std::_Exit(3);
  }
  bool empty() { return nothing(); }
  void write(const T& value) {
    values_.push(value);
    stage();
  }
  T read() {
    take();
    return values_.pop();
  }
  bool read_nb(T& value) {
    if (nothing()) return false;
    value = read();
    return true;
  }

 private:
  attnc::cosim::Ring<T> values_;
};

inline void stream_report(std::FILE*) {}

}  // namespace hls

#else

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#ifdef ATTNC_RECORD
#include "attnc_record.h"
#endif

namespace hls {

namespace sim {
inline std::map<std::string, std::size_t>& depths() {
  static std::map<std::string, std::size_t> table;
  return table;
}
[[noreturn]] inline void fail(const std::string& name, const char* what, std::size_t count) {
  std::fprintf(stderr, "hls::stream '%s': %s (%zu)\n", name.c_str(), what, count);
  std::fflush(nullptr);
  std::_Exit(3);
}
}  // namespace sim

inline void stream_report(std::FILE* out) {
  for (const auto& entry : sim::depths()) std::fprintf(out, "%s %zu\n", entry.first.c_str(), entry.second);
}

template <class T, int DEPTH = 0> class stream {
 public:
  stream() : name_("unnamed") {}
  explicit stream(const char* name) : name_(name) {}
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() {
    if (!empty()) sim::fail(name_, "left over when the stream ended, elements", size());
    std::size_t& depth = sim::depths()[name_];
    depth = std::max(depth, deepest_);
  }

  bool empty() const { return head_ == queue_.size(); }
  bool full() const { return false; }
  std::size_t size() const { return queue_.size() - head_; }

  void write(const T& value) {
#ifdef ATTNC_RECORD
    record_.token(&value);
#endif
    queue_.push_back(value);
    deepest_ = std::max(deepest_, size());
  }
  T read() {
    if (empty()) sim::fail(name_, "read while empty after reads", reads_);
    const T value = queue_[head_++];
    ++reads_;
    if (head_ == queue_.size()) {
      queue_.clear();
      head_ = 0;
    }
    return value;
  }
  void read(T& value) { value = read(); }
  bool read_nb(T& value) { return empty() ? false : (value = read(), true); }
  bool write_nb(const T& value) { return write(value), true; }
  void operator>>(T& value) { value = read(); }
  void operator<<(const T& value) { write(value); }

 private:
  std::string name_;
  std::vector<T> queue_;
  std::size_t head_ = 0, deepest_ = 0, reads_ = 0;
#ifdef ATTNC_RECORD
  sim::Record record_{name_, sizeof(T)};
#endif
};

}  // namespace hls

#endif  // ATTNC_COSIM
