// A step of whole sequences, cut into slices that one thread takes through the whole plan alone: what a phase writes, the
// next finds in that core's L2, and nobody waits at barriers. Worth it for many tokens only, since each thread then reads
// all weights for itself.
//
// Results do not change: every row is computed as in one step of all threads.
#ifndef TRIPOS_PLAN_SLICES_H_
#define TRIPOS_PLAN_SLICES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/include/tripos.h"
#include "kernels/plan/arena.h"

namespace tripos {

// What one thread needs to run slices: a step of its own, and counters of its own.
struct SliceStep {
  TriposStep step{};
  std::vector<int32_t> query_start, last_rows;
  std::unique_ptr<std::atomic<int64_t>[]> counters;
};

class Slices {
 public:
  // Room for the largest step, so that planning allocates nothing.
  void Reserve(int num_threads, int max_num_tokens, int max_num_rows, size_t num_counters, const ArenaSize& arena);

  // Cuts the step. False: it is better run by all threads together.
  bool Plan(const TriposStep& step);

  // The next slice as a step of its own, in `own`; false: there is none left. `first_seq`: its first in the whole step.
  bool Take(const TriposStep& whole, SliceStep& own, int32_t* first_seq);

  SliceStep& Own(int thread) { return own_[static_cast<size_t>(thread)]; }
  // Tokens and rows of each thread's part of the arenas.
  int tokens_per_thread() const { return tokens_per_thread_; }
  int rows_per_thread() const { return rows_per_thread_; }

 private:
  bool IsEven(const TriposStep& step);

  int num_threads_ = 1, tokens_per_thread_ = 0, rows_per_thread_ = 0, slice_tokens_ = 0;
  std::vector<int32_t> starts_;  // first sequence of each slice, and the end
  std::vector<SliceStep> own_;   // per thread
  std::vector<int64_t> loads_;   // tokens per thread, were all as fast
  std::atomic<size_t> next_{0};
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_SLICES_H_
