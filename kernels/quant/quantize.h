// Float32 weights to Tripos' own formats, one file per format.
#ifndef TRIPOS_KERNELS_QUANT_QUANTIZE_H_
#define TRIPOS_KERNELS_QUANT_QUANTIZE_H_

#include <cstdint>

namespace tripos::quant {

inline constexpr int kGroupSize = 32;

// q in [-127, 127], x ~ scale * q. Returns the scale. (int8.cc)
float QuantizeInt8(const float* x, int64_t count, int8_t* q);

// x ~ scale * q + minimum, q in [0, 15]; scale and minimum are halves. (int4.cc)
struct Int4Group {
  uint16_t scale;
  uint16_t minimum;
  uint8_t q[kGroupSize];
};
void QuantizeInt4(const float* x, int64_t num_groups, Int4Group* groups);

// x ~ scale * q, q in [-127, 127]; scale is a half. (int8.cc)
struct Int8Group {
  uint16_t scale;
  int8_t q[kGroupSize];
};
void QuantizeInt8Groups(const float* x, int64_t num_groups, Int8Group* groups);

// e4m3 codes (no infinities, 448 largest), x ~ scale * code. Returns the scale. (fp8.cc)
float QuantizeFp8(const float* x, int64_t count, uint8_t* codes);
float FromFp8(uint8_t code);

}  // namespace tripos::quant

#endif  // TRIPOS_KERNELS_QUANT_QUANTIZE_H_
