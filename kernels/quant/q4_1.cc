// Q4_1: a half scale, a half minimum and 32 nibbles; byte j holds values j (low) and j + 16 (high).
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ4_1(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 32, row += kQ4_1Bytes, out += 32) {
    const float scale = HalfAt(row), minimum = HalfAt(row + 2);
    for (int j = 0; j < 16; ++j) {
      out[j] = scale * static_cast<float>(row[4 + j] & 15) + minimum;
      out[j + 16] = scale * static_cast<float>(row[4 + j] >> 4) + minimum;
    }
  }
}

void UnpackQ4_1(const uint8_t* row, int64_t count, Int4Group* groups) {
  for (; count > 0; count -= 32, row += kQ4_1Bytes, ++groups) {
    std::memcpy(&groups->scale, row, 2);
    std::memcpy(&groups->minimum, row + 2, 2);
    for (int j = 0; j < 16; ++j) {
      groups->q[j] = row[4 + j] & 15;
      groups->q[j + 16] = row[4 + j] >> 4;
    }
  }
}

}  // namespace tripos::quant
