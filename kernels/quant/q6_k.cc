// Q6_K: 256 values as 16 sub-blocks of 16 with int8 scales; value = d scale (q - 32). Each half of 128 values keeps
// low nibbles in 64 bytes of ql (values i, i+32 low; i+64, i+96 high) and two high bits of those four in byte i of qh.
#include "kernels/quant/gguf.h"

namespace tripos::quant {

void DequantizeQ6_K(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 256, row += kQ6_KBytes) {
    const float d = HalfAt(row + 208);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* low = row + half * 64;
      const uint8_t* high = row + 128 + half * 32;
      const int8_t* scales = reinterpret_cast<const int8_t*>(row + 192) + half * 8;
      for (int quarter = 0; quarter < 4; ++quarter, out += 32) {
        for (int i = 0; i < 32; ++i) {
          const int nibble = low[quarter % 2 * 32 + i] >> quarter / 2 * 4 & 15;
          const int level = (nibble | (high[i] >> quarter * 2 & 3) << 4) - 32;
          out[i] = d * scales[quarter * 2 + i / 16] * level;
        }
      }
    }
  }
}

}  // namespace tripos::quant
