// Where each buffer of a step lies: one block of memory, reused as buffers die.
#ifndef TRIPOS_PLAN_ARENA_H_
#define TRIPOS_PLAN_ARENA_H_

#include <cstddef>
#include <vector>

#include "kernels/plan/plan.h"

namespace tripos {

// A buffer of `row_bytes` (a multiple of 64) for each row of its kind, alive in [first, last] (barrier intervals).
struct Buffer {
  Rows rows = Rows::kTokens;
  size_t row_bytes = 0;
  int first = -1;
  int last = -1;
  bool is_private = false;  // in a step of one row each thread writes its own
  bool is_local = false;    // used within one run of row phases only: each thread has kLocalRows rows of its own
  size_t offset = 0;  // per row: the buffer starts at offset * num_rows
};

inline size_t RoundUp64(size_t n) { return (n + 63) / 64 * 64; }

// Rows that a run of row phases takes through all of them at a time.
inline constexpr int64_t kLocalRows = 8;

// Gives every buffer an offset such that no two of the same kind (tokens, sampled, local) overlap while alive; returns
// bytes per row of each kind. Greedy first fit in order of birth.
struct ArenaSize {
  size_t token_row_bytes = 0;
  size_t sampled_row_bytes = 0;
  size_t local_row_bytes = 0;

  size_t row_bytes() const { return token_row_bytes + sampled_row_bytes; }
  size_t local_bytes() const { return local_row_bytes * static_cast<size_t>(kLocalRows); }  // of a thread
};
ArenaSize PlaceBuffers(std::vector<Buffer>& buffers);

}  // namespace tripos

#endif  // TRIPOS_PLAN_ARENA_H_
