// The paged cache and what attention over it is asked for.
#ifndef TRIPOS_OPS_ATTENTION_H_
#define TRIPOS_OPS_ATTENTION_H_

#include <cstddef>
#include <cstdint>

namespace tripos {

enum class KvType : int32_t { kF32, kF16, kInt8 };
inline constexpr size_t kNumKvTypes = 3;

const char* KvTypeName(KvType type);  // fp32, fp16, int8

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

}  // namespace tripos

#endif  // TRIPOS_OPS_ATTENTION_H_
