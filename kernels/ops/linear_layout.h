// The bytes inside a packed panel and a prepared row. Known to the kernels and to Pack, to nobody else.
//
//   f32    per k            32 floats
//   bf16   per pair of k: 32 words, even k in the low half; k up to a multiple of 32 with zeros
//   f16    per k            32 halves
//   fp8    32 floats scale; per pair of k: 32 words, even k in the low byte
//   int8   32 floats scale; per 4 k: 32 x 4 bytes, w + 128
//   int4   per 32 k: 32 halves scale, 32 halves minimum, then 4 x 32 x 4 bytes: low nibbles k = 8i .. 8i+3, high
//          nibbles k = 8i+4 .. 8i+7; value = scale * q + minimum
//   int8g  per 32 k: 32 halves scale, then 8 x 32 x 4 bytes, w + 128
// Prepared row: of int8 RowHeader, PaddedK values, PaddedK / 32 floats (the sums of the groups, exact integers); of
// bf16 PaddedK values.
#ifndef TRIPOS_KERNELS_OPS_LINEAR_LAYOUT_H_
#define TRIPOS_KERNELS_OPS_LINEAR_LAYOUT_H_

#include "kernels/ops/linear.h"

namespace tripos::linear {

struct RowHeader {
  float scale;
  int32_t sum;
};

inline constexpr size_t kRowHeaderBytes = 64;
inline constexpr size_t kInt4GroupBytes = 128 + 512;
inline constexpr size_t kInt8GroupBytes = 64 + 1024;
inline constexpr size_t kPrefetchBytes = 8192;                      // ahead in a stream that is read once
inline constexpr size_t kPanelGroupBytes = size_t{128} << 10;  // of panels that several row tiles share, twice in L2

constexpr int64_t PaddedK(int64_t k) { return (k + kGroup - 1) / kGroup * kGroup; }

// Offset of the group sums in a prepared row.
constexpr size_t GroupSumOffset(int64_t k) { return kRowHeaderBytes + static_cast<size_t>(PaddedK(k)); }

}  // namespace tripos::linear

#endif  // TRIPOS_KERNELS_OPS_LINEAR_LAYOUT_H_
