#pragma once
// hls::stream as a sanitizer of memory wants it: elements are moved by code that it sees, and nothing of a library that it does not.

#include <cstdio>
#include <cstdlib>

namespace hls {
inline void stream_report(std::FILE*) {}

template <class T, int DEPTH = 0> class stream {
 public:
  stream() {}
  explicit stream(const char*) {}
  stream(const stream&) = delete;
  stream& operator=(const stream&) = delete;
  ~stream() {
    if (first_ != behind_) std::abort();
    std::free(held_);
  }
  bool empty() const { return first_ == behind_; }
  void write(const T& value) {
    if (behind_ == room_) held_ = static_cast<T*>(std::realloc(held_, (room_ = 2 * room_ + 16) * sizeof(T)));
    held_[behind_++] = value;
  }
  T read() {
    if (empty()) std::abort();
    return held_[first_++];
  }
  bool read_nb(T& value) { return empty() ? false : (value = read(), true); }

 private:
  T* held_ = nullptr;
  std::size_t first_ = 0, behind_ = 0, room_ = 0;
};
}  // namespace hls
