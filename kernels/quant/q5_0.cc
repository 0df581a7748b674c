// Q5_0: a half scale, 32 high bits and 32 nibbles; value = d (level - 16). Nibbles lie as in Q4_0, and bit j of the
// little-endian word is the fifth bit of value j.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void UnpackQ5_0(const uint8_t* row, int64_t count, Int8Group* groups) {
  for (; count > 0; count -= 32, row += kQ5_0Bytes, ++groups) {
    std::memcpy(&groups->scale, row, 2);
    for (int j = 0; j < 32; ++j) groups->q[j] = static_cast<int8_t>(FiveBits(row + 2, j) - 16);
  }
}

void DequantizeQ5_0(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 32, row += kQ5_0Bytes, out += 32) {
    const float scale = HalfAt(row);
    for (int j = 0; j < 32; ++j) out[j] = scale * static_cast<float>(FiveBits(row + 2, j) - 16);
  }
}

}  // namespace tripos::quant
