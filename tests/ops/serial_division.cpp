// The serial division of exponential.hpp against the operator: every mantissa, multipliers from the smallest to the largest.

#include "attnc/exponential.hpp"

#include <cstdio>

using namespace attnc;

int main() {
  const int multipliers[] = {0, 1, 1 << 16, (1 << 16) + 1, 71291, 98304, (1 << 17) - 2, (1 << 17) - 1};
  long seen = 0, wrong = 0;
  for (int total = 1 << PROBABILITY_BITS; total <= 1 << (PROBABILITY_BITS + 2); ++total) {
    for (int multiplier : multipliers) {
      const SoftmaxQuotient division = softmax_quotient<UInt<32>>(UInt<32>(total), multiplier_t(multiplier), shift_t(5));
      SerialDivision state = serial_start(division);
      for (int bit = 0; bit < QUOTIENT_BITS; ++bit) state = serial_step(state, division.mantissa);
      const SoftmaxScale scale = softmax_scale<UInt<32>>(UInt<32>(total), multiplier_t(multiplier), shift_t(5));
      wrong += int(state.rest) != int(scale.multiplier) || int(scale.shift) != int(division.shift);
      ++seen;
    }
  }
  std::printf("%ld %ld\n", seen, wrong);
}
