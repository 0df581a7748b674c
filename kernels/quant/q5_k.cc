// Q5_K: as Q4_K with a fifth bit: bit j of byte i of qh belongs to value i of sub-block j.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ5_K(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 256, row += kQ5_KBytes) {
    const float d = HalfAt(row), dmin = HalfAt(row + 2);
    const uint8_t* high = row + 16;
    for (int j = 0; j < 8; ++j, out += 32) {
      const ScaleMin sm = ScaleMinAt(row + 4, j);
      const float scale = d * sm.scale, minimum = dmin * sm.minimum;
      const uint8_t* q = row + 48 + j / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        const int level = (q[i] >> j % 2 * 4 & 15) | (high[i] >> j & 1) << 4;
        out[i] = scale * level - minimum;
      }
    }
  }
}

}  // namespace tripos::quant
