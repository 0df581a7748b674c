// GGUF block formats: exact dequantization, and unpacking into our groups. One file per format.
//
// `row` is count / block-size blocks back to back, little endian, without alignment; count is a multiple of the block.
// Layouts: ggml's block_q*, https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
#ifndef TRIPOS_KERNELS_QUANT_GGUF_H_
#define TRIPOS_KERNELS_QUANT_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {

inline constexpr size_t kQ8_0Bytes = 34;   // 32 values
inline constexpr size_t kQ4_0Bytes = 18;   // 32 values
inline constexpr size_t kQ4_1Bytes = 20;   // 32 values
inline constexpr size_t kQ5_0Bytes = 22;   // 32 values
inline constexpr size_t kQ5_1Bytes = 24;   // 32 values
inline constexpr size_t kQ2_KBytes = 84;   // 256 values
inline constexpr size_t kQ3_KBytes = 110;  // 256 values
inline constexpr size_t kQ4_KBytes = 144;  // 256 values
inline constexpr size_t kQ5_KBytes = 176;  // 256 values
inline constexpr size_t kQ6_KBytes = 210;  // 256 values

void DequantizeQ8_0(const uint8_t* row, int64_t count, float* out);
void DequantizeQ4_0(const uint8_t* row, int64_t count, float* out);
void DequantizeQ4_1(const uint8_t* row, int64_t count, float* out);
void DequantizeQ5_0(const uint8_t* row, int64_t count, float* out);
void DequantizeQ5_1(const uint8_t* row, int64_t count, float* out);
void DequantizeQ2_K(const uint8_t* row, int64_t count, float* out);
void DequantizeQ3_K(const uint8_t* row, int64_t count, float* out);
void DequantizeQ4_K(const uint8_t* row, int64_t count, float* out);
void DequantizeQ5_K(const uint8_t* row, int64_t count, float* out);
void DequantizeQ6_K(const uint8_t* row, int64_t count, float* out);

// Lossless.
void UnpackQ8_0(const uint8_t* row, int64_t count, Int8Group* groups);
// Lossless.
void UnpackQ5_0(const uint8_t* row, int64_t count, Int8Group* groups);
// Lossless but where a group holds scale -32 times level -4, whose product is 128: it is rounded to 127 steps.
void UnpackQ3_K(const uint8_t* row, int64_t count, Int8Group* groups);
// Lossless: minimum = -8 scale.
void UnpackQ4_0(const uint8_t* row, int64_t count, Int4Group* groups);
// Lossless.
void UnpackQ4_1(const uint8_t* row, int64_t count, Int4Group* groups);
// The levels without loss; scale and minimum, products of a half and six bits, rounded to halves.
void UnpackQ4_K(const uint8_t* row, int64_t count, Int4Group* groups);

inline float HalfAt(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return FromF16(half);
}

// Level of value j (0..31) out of the 32 high bits and 16 bytes of nibbles that Q5_0 and Q5_1 share.
inline int FiveBits(const uint8_t* p, int j) {
  return (p[4 + j % 16] >> j / 16 * 4 & 15) | (p[j / 8] >> j % 8 & 1) << 4;
}

// Six-bit scale and minimum of sub-block j (0..7) out of the 12 bytes that Q4_K and Q5_K share.
struct ScaleMin {
  int scale, minimum;
};
inline ScaleMin ScaleMinAt(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4};
}

}  // namespace tripos::quant

#endif  // TRIPOS_KERNELS_QUANT_GGUF_H_
