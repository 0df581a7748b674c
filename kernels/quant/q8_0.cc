// Q8_0: a half scale and 32 int8 values.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ8_0(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 32, row += kQ8_0Bytes, out += 32) {
    const float scale = HalfAt(row);
    for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<int8_t>(row[2 + i]);
  }
}

void UnpackQ8_0(const uint8_t* row, int64_t count, Int8Group* groups) {
  for (; count > 0; count -= 32, row += kQ8_0Bytes, ++groups) {
    std::memcpy(&groups->scale, row, 2);
    std::memcpy(groups->q, row + 2, 32);
  }
}

}  // namespace tripos::quant
