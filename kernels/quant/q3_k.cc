// Q3_K: 256 values as 16 sub-blocks of 16 with six-bit scales minus 32; value = d scale (level - 4). 32 bytes of high
// bits (bit j of byte i: value 32 j + i), 64 of two low bits (each 32 bytes hold four times 32 values, lowest bits
// first), 12 of scales, d.
#include "kernels/quant/gguf.h"

namespace tripos::quant {
namespace {

constexpr int kLow = 32, kScales = 96, kD = 108;

// Four low bits of scale j lie in bytes 0..7 (first eight scales low, then high nibbles), two high bits in bytes 8..11.
int ScaleAt(const uint8_t* s, int j) { return ((s[j % 8] >> j / 8 * 4 & 15) | (s[8 + j % 4] >> j / 4 * 2 & 3) << 4) - 32; }

// Scale times level of value i of group g (of 32): whole, from -124 to 128.
int ProductAt(const uint8_t* row, int g, int i) {
  const int low = row[kLow + g / 4 * 32 + i] >> g % 4 * 2 & 3;
  const int high = row[i] >> g & 1;
  return ScaleAt(row + kScales, 2 * g + i / 16) * ((low | high << 2) - 4);
}

}  // namespace

void DequantizeQ3_K(const uint8_t* row, int64_t count, float* out) {
  for (; count > 0; count -= 256, row += kQ3_KBytes) {
    const float d = HalfAt(row + kD);
    for (int g = 0; g < 8; ++g, out += 32) {
      for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(ProductAt(row, g, i));
    }
  }
}

void UnpackQ3_K(const uint8_t* row, int64_t count, Int8Group* groups) {
  for (; count > 0; count -= 256, row += kQ3_KBytes) {
    const float d = HalfAt(row + kD);
    for (int g = 0; g < 8; ++g, ++groups) {
      bool fits = true;
      float values[32];
      for (int i = 0; i < 32; ++i) {
        const int product = ProductAt(row, g, i);
        fits = fits && product <= 127;
        values[i] = d * static_cast<float>(product);
        groups->q[i] = static_cast<int8_t>(product <= 127 ? product : 127);
      }
      std::memcpy(&groups->scale, row + kD, 2);
      if (!fits) QuantizeInt8Groups(values, 1, groups);
    }
  }
}

}  // namespace tripos::quant
