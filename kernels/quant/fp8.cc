// fp8 e4m3 (OCP OFP8): 4 exponent bits with bias 7, 3 mantissa bits, 448 the largest value, no infinities.
#include <algorithm>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {
namespace {

inline uint8_t ToFp8(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude + 0x7FFFFu + (magnitude >> 20 & 1u) - (120u << 23)) >> 20;
  const uint32_t subnormal = BitsOf(FloatOf(magnitude) + 16384.0f) - BitsOf(16384.0f);  // an ulp of 2^-9
  const uint32_t code = magnitude < (121u << 23) ? subnormal : normal;
  return static_cast<uint8_t>((bits >> 24 & 0x80u) | std::min(code, 0x7Eu));
}

}  // namespace

float QuantizeFp8(const float* x, int64_t count, uint8_t* codes) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, BitsOf(x[i]) & 0x7FFFFFFFu);
  const float absmax = FloatOf(largest);
  const float inverse = absmax < 1e-30f ? 0.0f : 448.0f / absmax;
  for (int64_t i = 0; i < count; ++i) codes[i] = ToFp8(x[i] * inverse);
  return absmax < 1e-30f ? 0.0f : absmax / 448.0f;
}

float FromFp8(uint8_t code) {
  return 256.0f * FromF16(static_cast<uint16_t>((code & 0x80u) << 8 | (code & 0x7Fu) << 7));
}

}  // namespace tripos::quant
