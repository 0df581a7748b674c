// Q4_K: 256 values as 8 sub-blocks of 32; value = d scale q - dmin minimum. Each 32 bytes hold two sub-blocks.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ4_K(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 256, row += kQ4_KBytes) {
    const float d = HalfAt(row), dmin = HalfAt(row + 2);
    for (int j = 0; j < 8; ++j, out += 32) {
      const ScaleMin sm = ScaleMinAt(row + 4, j);
      const float scale = d * sm.scale, minimum = dmin * sm.minimum;
      const uint8_t* q = row + 16 + j / 2 * 32;
      for (int i = 0; i < 32; ++i) out[i] = scale * (q[i] >> j % 2 * 4 & 15) - minimum;
    }
  }
}

void UnpackQ4_K(const uint8_t* row, int64_t count, Int4Group* groups) {
  for (; count > 0; count -= 256, row += kQ4_KBytes) {
    const float d = HalfAt(row), dmin = HalfAt(row + 2);
    for (int j = 0; j < 8; ++j, ++groups) {
      const ScaleMin sm = ScaleMinAt(row + 4, j);
      groups->scale = ToF16(d * sm.scale);
      groups->minimum = ToF16(-dmin * sm.minimum);
      const uint8_t* q = row + 16 + j / 2 * 32;
      for (int i = 0; i < 32; ++i) groups->q[i] = q[i] >> j % 2 * 4 & 15;
    }
  }
}

}  // namespace tripos::quant
