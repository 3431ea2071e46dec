// Every pair of products against plain multiplication: prints how many were computed and how many differ.
#include "attnc/dsp_pair.hpp"

#include <cstdio>

int main() {
  long wrong = 0, seen = 0;
  for (int w = -128; w < 128; ++w) {
    for (int a = -128; a < 128; ++a) {
      for (int b = -128; b < 128; ++b) {
        typedef attnc::Int<8> s8;
        const attnc::ProductPair pair = attnc::multiply_pair<s8, s8>(s8(a), s8(b), s8(w));
        wrong += int(pair.a) != a * w || int(pair.b) != b * w;
        ++seen;
      }
    }
  }
  std::printf("%ld %ld\n", seen, wrong);
}
