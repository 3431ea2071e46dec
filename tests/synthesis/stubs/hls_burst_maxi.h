#pragma once
// What the vendor's header declares of a memory that is asked for by hand.

#include <ap_int.h>

namespace hls {
template <class T> struct burst_maxi {
  burst_maxi(T* memory);
  void read_request(unsigned long offset, unsigned long length);
  T read();
  void write_request(unsigned long offset, unsigned long length);
  void write(const T& value);
  void write(const T& value, ap_int<sizeof(T)> bytes);
  void write_response();
};
}  // namespace hls
