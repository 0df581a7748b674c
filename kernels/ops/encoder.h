// What attention among the tokens of a whole sequence is asked for.
#ifndef TRIPOS_OPS_ENCODER_H_
#define TRIPOS_OPS_ENCODER_H_

#include <cstddef>
#include <cstdint>

namespace tripos {

// One sequence and one kv head: `num_heads` query heads, next to each other, that share its keys and values.
struct SelfAttentionArgs {
  const float* q;  // first token, first of the heads
  const float* k;
  const float* v;
  float* out;
  size_t q_stride, k_stride, v_stride, out_stride;  // floats between tokens
  int num_tokens;
  int num_heads;
  int head_dim;
  int left, right;  // how many keys a query sees on each side; -1: all
  float scale;
};

// Of a thread: 16 queries and their outputs with queries as lanes, and their scores.
inline size_t SelfAttentionScratchFloats(int head_dim, int max_num_tokens) {
  const size_t padded = (static_cast<size_t>(head_dim) + 15) / 16 * 16;
  return 16 * (2 * padded + static_cast<size_t>(max_num_tokens));
}

}  // namespace tripos

#endif  // TRIPOS_OPS_ENCODER_H_
