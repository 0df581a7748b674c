#include "kernels/ops/op_kernels.h"

namespace tripos {

extern const OpKernels kOpKernelsScalar;
#if defined(__x86_64__)
extern const OpKernels kOpKernelsAvx2;
extern const OpKernels kOpKernelsAvx512;
#endif

// Best first; the last one runs everywhere.
const OpKernels& ChooseOpKernels(Isa isa) {
  static const OpKernels* const kAll[] = {
#if defined(__x86_64__)
      &kOpKernelsAvx512,
      &kOpKernelsAvx2,
#endif
      &kOpKernelsScalar,
  };
  for (const OpKernels* kernels : kAll) {
    if (kernels->isa <= isa) return *kernels;
  }
  return kOpKernelsScalar;
}

KvLayout KvLayout::Make(KvType type, int block_size, int num_layers, int num_kv_heads, int head_dim) {
  constexpr size_t kBytes[] = {4, 2, 1};
  const size_t element = kBytes[static_cast<int>(type)];
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
