// Writing a token into the cache. Needs simd-inl.h and attention_int8-inl.h.
#include "kernels/ops/attention.h"

namespace tripos {
namespace {

void WriteKv(const KvLayout& layout, uint8_t* chunks, int32_t slot, const float* k, const float* v) {
  const int size = layout.block_size, dim = layout.head_dim, at = slot % size;
  uint8_t* chunk = chunks + static_cast<size_t>(slot / size) * layout.block_bytes();
  uint8_t* v_out = chunk + layout.v_offset;
  if (layout.type == KvType::kF32) {
    for (int i = 0; i < dim; ++i) reinterpret_cast<float*>(chunk)[i * size + at] = k[i];
    std::memcpy(reinterpret_cast<float*>(v_out) + at * layout.padded_dim, v, static_cast<size_t>(dim) * sizeof(float));
  } else if (layout.type == KvType::kF16) {
    for (int i = 0; i < dim; ++i) reinterpret_cast<uint16_t*>(chunk)[i * size + at] = FloatToHalf(k[i]);
    for (int i = 0; i < dim; ++i) reinterpret_cast<uint16_t*>(v_out)[at * layout.padded_dim + i] = FloatToHalf(v[i]);
  } else {
    WriteKvInt8(layout, chunk, at, k, v);
  }
}

}  // namespace
}  // namespace tripos
