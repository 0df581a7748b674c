// Bounds of a step, checked once before anything reads through its indices: O(tokens + blocks + sampling entries).
#ifndef TRIPOS_PLAN_STEP_CHECK_H_
#define TRIPOS_PLAN_STEP_CHECK_H_

#include <cstdint>

#include "kernels/include/tripos.h"

namespace tripos {

struct StepLimits {
  int32_t block_size;
  int32_t max_num_tokens;
  int32_t max_num_rows;
  int64_t num_blocks;
  int64_t num_embed_rows;  // 0: token ids are not read
  int64_t num_positions;   // 0: no table of positions
  int64_t vocab_size;
  bool has_cache;
  int64_t num_token_types = 0;  // 0: no table of token types
  bool has_whole_seqs = false;  // every sequence of a step is whole
  bool pools = false;           // one row per sequence
};

// Throws Error naming the array, the index and the value.
void CheckStep(const TriposStep& step, const TriposOutput& output, const StepLimits& limits);

}  // namespace tripos

#endif  // TRIPOS_PLAN_STEP_CHECK_H_
