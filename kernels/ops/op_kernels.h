// The kernels of every op but linear: one table per instruction set, chosen once at load.
//
// Each computes a row (or an attention tile) in an order that depends on that row alone, so that results do not
// change with the batch, the thread or the tile that computed them.
#ifndef TRIPOS_OPS_OP_KERNELS_H_
#define TRIPOS_OPS_OP_KERNELS_H_

#include <cstddef>
#include <cstdint>

#include "kernels/plan/plan.h"
#include "kernels/util/cpu.h"

namespace tripos {

struct NormArgs {
  const float* weight;
  const float* bias;  // or nullptr
  int cols;           // of the row
  int group;          // columns normalized together; divides cols
  NormKind kind;
  float eps;
};

enum class KvType : int32_t { kF32, kF16, kInt8 };

// How the cache is laid out: [block][layer][kv head] chunks of K [head_dim][block_size] and V [block_size][padded_dim], K
// transposed so that tokens are vector lanes. Blocks are outermost, so that only blocks in use take memory. int8 lies as
// attention_int8-inl.h says, followed by the scales of K and of V [block_size] each.
struct KvLayout {
  KvType type = KvType::kF32;
  int block_size = 0;
  int num_layers = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int padded_dim = 0;  // head_dim up to a multiple of 16
  size_t v_offset = 0;
  size_t scale_offset = 0;
  size_t chunk_bytes = 0;

  static KvLayout Make(KvType type, int block_size, int num_layers, int num_kv_heads, int head_dim);
  size_t layer_bytes() const { return chunk_bytes * static_cast<size_t>(num_kv_heads); }  // of a block
  size_t block_bytes() const { return layer_bytes() * static_cast<size_t>(num_layers); }
};

inline constexpr int kPartition = 512;  // keys per partial softmax, aligned to absolute position
inline constexpr int kTileRows = 16;    // (query, head) pairs that share each load of K and V
inline constexpr int kMaxHeadDim = 512;

inline constexpr size_t kAttendScratchFloats = static_cast<size_t>(kTileRows) * kPartition;  // the scores

// Blocks of one head's cache that are read next: asked for meanwhile, since no hardware foresees where they lie.
struct NextBlocks {
  const uint8_t* chunks = nullptr;  // at the head's chunk of block 0
  const int32_t* table = nullptr;
  int count = 0;
};

// One tile: `num_queries` consecutive queries of a sequence times `num_heads` heads of one kv head.
struct AttentionTile {
  const float* q;  // first query's first head; [query stride][head stride head_dim]
  size_t q_stride;
  float* out;
  size_t out_stride;
  int num_queries;
  int num_heads;
  int first_position;
  const uint8_t* chunks;  // this layer's cache, at this kv head's chunk of block 0
  const int32_t* block_table;
  float scale;
  int window;
  float softcap;
  NextBlocks next;
};

// Per tile row and partition: the largest score, the sum of exp(score - largest), and padded_dim weighted values.
struct Partial {
  float* largest;  // [kTileRows]
  float* sum;      // [kTileRows]
  float* values;   // [kTileRows, padded_dim]

  static size_t Floats(int padded_dim) { return kTileRows * (2 + static_cast<size_t>(padded_dim)); }
  static Partial At(float* memory) {
    return {memory, memory + kTileRows, memory + 2 * kTileRows};
  }
};

struct OpKernels {
  Isa isa;
  void (*norm)(const NormArgs& args, const float* x, float* y);
  void (*rope)(const float* x, float* y, int cols, int head_dim, int half, const float* cos, const float* sin);
  void (*glu)(ActKind act, const float* gate, const float* up, float* y, int cols);
  void (*act)(ActKind act, const float* x, float* y, int cols);
  void (*add)(const float* a, const float* b, float* y, int cols);
  void (*scale)(float* x, float factor, int cols);

  // One token's k and v of one kv head into its slot. `chunks`: the layer's cache, at the head's chunk of block 0.
  void (*write_kv)(const KvLayout& layout, uint8_t* chunks, int32_t slot, const float* k, const float* v);
  // A tile's partial softmax over one partition. scratch: kAttendScratchFloats.
  void (*attend)(const KvLayout& layout, const AttentionTile& tile, int partition, float* scratch, const Partial& out);
  // Folds `next` into `total`; the order of calls is the order of partitions.
  void (*merge)(const Partial& total, const Partial& next, int num_rows, int padded_dim);
  void (*finish)(const AttentionTile& tile, const Partial& total, int head_dim, int padded_dim);

  // Sampling, over `count` values.
  float (*max)(const float* x, int64_t count);
  bool (*all_finite)(const float* x, int64_t count);
  double (*exp_sum)(const float* x, int64_t count, float largest);                  // of exp(x - largest)
  void (*exp_weights)(const float* x, int64_t count, float largest, float divisor, float* y);  // exp(x/d - largest)
  double (*sum)(const float* x, int64_t count);
  // Writes the indices of the values >= cut, in order; returns how many.
  int64_t (*at_least)(const float* x, int64_t count, float cut, int32_t* ids);
};

const OpKernels& ChooseOpKernels(Isa isa);

}  // namespace tripos

#endif  // TRIPOS_OPS_OP_KERNELS_H_
