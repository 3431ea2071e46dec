// Sums of pairs of products against plain multiplication, as many as may be added for a and b of each size: prints how many were computed
// and how many differ.
#include "attnc/dsp_pair.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

typedef attnc::Int<8> s8;
long wrong = 0, seen = 0;

attnc::pair_sum_t product(int a, int b, int w) {
  return attnc::pair_sum_t(attnc::pair_sum_t(attnc::pack_pair<s8>(s8(a), s8(b))) * attnc::pair_sum_t(w));
}

void check(attnc::pair_sum_t sum, int a, int b) {
  const attnc::ProductPair pair = attnc::split_pair(sum);
  wrong += int(pair.a) != a || int(pair.b) != b;
  ++seen;
}

}  // namespace

int main() {
  for (int w = -128; w < 128; ++w) {
    for (int a = -128; a < 128; ++a) {
      for (int b = -128; b < 128; ++b) {
        const attnc::pair_sum_t one = product(a, b, w);
        check(one, a * w, b * w);
        const int size = std::abs(a) > std::abs(b) ? std::abs(a) : std::abs(b), count = attnc::pair_chain(32, size);
        check(attnc::pair_sum_t(one * attnc::pair_sum_t(count)), count * a * w, count * b * w);
      }
    }
  }
  std::uint32_t state = 1;
  for (int i = 0; i < 1 << 22; ++i) {
    attnc::pair_sum_t sum = 0;
    int a_sum = 0, b_sum = 0;
    const int largest = i % 2 == 0 ? 127 : 128;
    for (int l = 0; l < attnc::pair_chain(16, largest); ++l) {
      state = state * 1664525u + 1013904223u;
      const int a = std::max<int>(std::int8_t(state >> 24), -largest), b = std::max<int>(std::int8_t(state >> 16), -largest);
      const int w = std::int8_t(state >> 8);
      sum += product(a, b, w);
      a_sum += a * w;
      b_sum += b * w;
    }
    check(sum, a_sum, b_sum);
  }
  std::printf("%ld %ld\n", seen, wrong);
}
