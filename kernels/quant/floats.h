// Half and bfloat16 bits to and from float32, round to nearest even, without branches that stop vectorizing.
#ifndef TRIPOS_KERNELS_QUANT_FLOATS_H_
#define TRIPOS_KERNELS_QUANT_FLOATS_H_

#include <cstdint>
#include <cstring>

namespace tripos::quant {

inline uint32_t BitsOf(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float FromBF16(uint16_t h) { return FloatOf(static_cast<uint32_t>(h) << 16); }

inline uint16_t ToBF16(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<uint16_t>(is_nan ? (bits >> 16 | 0x40u) : rounded);
}

// The shifted bits are the value / 2^112, subnormals included.
inline float FromF16(uint16_t h) {
  const uint32_t magnitude = (h & 0x7FFFu) << 13;
  const uint32_t scaled = BitsOf(FloatOf(magnitude) * 0x1p112f);
  const uint32_t special = magnitude >= (31u << 23) ? 0x7F800000u : 0u;
  return FloatOf(scaled | special | (h & 0x8000u) << 16);
}

inline uint16_t ToF16(float x) {
  const uint32_t bits = BitsOf(x);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t normal = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  const uint32_t subnormal = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);  // 0.5f has an ulp of 2^-24
  const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  return static_cast<uint16_t>(sign | (magnitude >= (143u << 23) ? special : finite));
}

// x rounded to the nearest integer, ties to even; |x| < 2^22.
inline int32_t RoundToInt(float x) { return static_cast<int32_t>(BitsOf(x + 12582912.0f) - 0x4B400000u); }

}  // namespace tripos::quant

#endif  // TRIPOS_KERNELS_QUANT_FLOATS_H_
