// Q4_0: a half scale and 32 nibbles minus 8; byte j holds values j (low) and j + 16 (high).
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ4_0(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 32, row += kQ4_0Bytes, out += 32) {
    const float scale = HalfAt(row);
    for (int j = 0; j < 16; ++j) {
      out[j] = scale * ((row[2 + j] & 15) - 8);
      out[j + 16] = scale * ((row[2 + j] >> 4) - 8);
    }
  }
}

void UnpackQ4_0(const uint8_t* row, int64_t count, Int4Group* groups) {
  for (; count > 0; count -= 32, row += kQ4_0Bytes, ++groups) {
    std::memcpy(&groups->scale, row, 2);
    groups->minimum = ToF16(-8.0f * FromF16(groups->scale));
    for (int j = 0; j < 16; ++j) {
      groups->q[j] = row[2 + j] & 15;
      groups->q[j + 16] = row[2 + j] >> 4;
    }
  }
}

}  // namespace tripos::quant
