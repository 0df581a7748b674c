// Q2_K: 256 values as 16 sub-blocks of 16; value = d scale level - dmin minimum. 16 bytes of scale (low nibble) and
// minimum (high), 64 of levels (each 32 bytes hold four times 32 values, lowest bits first), d, dmin.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ2_K(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 256, row += kQ2_KBytes) {
    const float d = HalfAt(row + 80), dmin = HalfAt(row + 82);
    for (int j = 0; j < 16; ++j, out += 16) {
      const float scale = d * (row[j] & 15), minimum = dmin * (row[j] >> 4);
      const uint8_t* q = row + 16 + j / 8 * 32 + j % 2 * 16;
      for (int i = 0; i < 16; ++i) out[i] = scale * (q[i] >> j / 2 % 4 * 2 & 3) - minimum;
    }
  }
}

}  // namespace tripos::quant
