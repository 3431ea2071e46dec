#pragma once
// What the vendor's header declares of a stream.

namespace hls {
template <class T, int DEPTH = 0> struct stream {
  stream();
  explicit stream(const char* name);
  bool empty();
  bool full();
  T read();
  void read(T& value);
  bool read_nb(T& value);
  void write(const T& value);
  bool write_nb(const T& value);
};
}  // namespace hls
