#include "kernels/ops/attention.h"

namespace tripos {
namespace {

size_t BytesOf(KvType type) {
  switch (type) {
    case KvType::kF32: return 4;
    case KvType::kF16: return 2;
    case KvType::kInt8: return 1;
  }
  return 0;
}

}  // namespace

const char* KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32: return "fp32";
    case KvType::kF16: return "fp16";
    case KvType::kInt8: return "int8";
  }
  return "";
}

KvLayout KvLayout::Make(KvType type, int block_size, int num_layers, int num_kv_heads, int head_dim) {
  const size_t element = BytesOf(type);
  const auto round_up = [](size_t n) { return (n + 63) / 64 * 64; };
  KvLayout layout;
  layout.type = type;
  layout.block_size = block_size;
  layout.num_layers = num_layers;
  layout.num_kv_heads = num_kv_heads;
  layout.head_dim = head_dim;
  layout.padded_dim = (head_dim + 15) / 16 * 16;
  const size_t size = static_cast<size_t>(block_size);
  const int key_dim = type == KvType::kInt8 ? (head_dim + 3) / 4 * 4 : head_dim;
  layout.v_offset = round_up(size * static_cast<size_t>(key_dim) * element);
  layout.scale_offset = layout.v_offset + round_up(size * static_cast<size_t>(layout.padded_dim) * element);
  layout.chunk_bytes = layout.scale_offset + (type == KvType::kInt8 ? round_up(2 * size * sizeof(float)) : 0);
  return layout;
}

}  // namespace tripos
