// Q5_1: a half scale, a half minimum, 32 high bits and 32 nibbles, which lie as in Q5_0; value = d level + minimum.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ5_1(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 32, row += kQ5_1Bytes, out += 32) {
    const float scale = HalfAt(row), minimum = HalfAt(row + 2);
    for (int j = 0; j < 32; ++j) out[j] = scale * static_cast<float>(FiveBits(row + 4, j)) + minimum;
  }
}

}  // namespace tripos::quant
