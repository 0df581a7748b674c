// Symmetric int8: per output channel and per group of 32.
#include <algorithm>
#include <cmath>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {
namespace {

float AbsMax(const float* x, int64_t count) {
  uint32_t largest = 0;  // of the bits: the same order, and it vectorizes without relaxed float rules
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, BitsOf(x[i]) & 0x7FFFFFFFu);
  return FloatOf(largest);
}

}  // namespace

float QuantizeInt8(const float* x, int64_t count, int8_t* q) {
  const float absmax = AbsMax(x, count);
  const float inverse = absmax < 1e-30f ? 0.0f : 127.0f / absmax;
  for (int64_t i = 0; i < count; ++i) q[i] = static_cast<int8_t>(RoundToInt(x[i] * inverse));
  return absmax < 1e-30f ? 0.0f : absmax / 127.0f;
}

void QuantizeInt8Groups(const float* x, int64_t num_groups, Int8Group* groups) {
  for (int64_t g = 0; g < num_groups; ++g, x += kGroupSize) {
    groups[g].scale = ToF16(AbsMax(x, kGroupSize) / 127.0f);
    const float scale = FromF16(groups[g].scale);
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    for (int i = 0; i < kGroupSize; ++i) {
      const int32_t q = RoundToInt(x[i] * inverse);  // the half may have rounded down
      groups[g].q[i] = static_cast<int8_t>(std::clamp(q, -127, 127));
    }
  }
}

}  // namespace tripos::quant
