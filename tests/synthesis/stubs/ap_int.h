#pragma once
// Integers of any width as the checks see them: the names and conversions of the vendor's, in a few lines, so that a project is read
// in a tenth of the time. Nothing is computed with them.

template <int W, bool SIGNED> struct ap_stub {
  static const int BYTES = W <= 8 ? 1 : W <= 16 ? 2 : W <= 32 ? 4 : W <= 64 ? 8 : 16;
  alignas(BYTES) char held[BYTES];
  ap_stub();
  template <class T> ap_stub(T);
  operator long long() const;
  template <class T> ap_stub& operator+=(T);
  template <class T> ap_stub& operator-=(T);
  template <class T> ap_stub& operator|=(T);
  ap_stub& operator++();
  ap_stub& operator--();
};
template <int W> struct ap_int : ap_stub<W, true> {
  ap_int();
  template <class T> ap_int(T);
};
template <int W> struct ap_uint : ap_stub<W, false> {
  ap_uint();
  template <class T> ap_uint(T);
};
