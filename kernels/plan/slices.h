// A step cut into slices, each of which one thread takes through the whole plan alone: what a phase writes, the next finds
// in that core's caches, and nobody waits at barriers. Worth it for many tokens only, since each thread then reads all
// weights for itself.
//
// Encoders: slices of whole sequences, some for each thread. With a cache: one slice for each thread, cut anywhere. A slice
// that begins inside a sequence waits, layer by layer, for the keys of those before it, which wait for nobody after them.
//
// Results do not change: every row is computed as in one step of all threads.
#ifndef TRIPOS_PLAN_SLICES_H_
#define TRIPOS_PLAN_SLICES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "kernels/include/tripos.h"
#include "kernels/plan/arena.h"
#include "kernels/plan/phase.h"

namespace tripos {

// What one thread needs to run slices: a step of its own, its tiles of queries, and counters of its own.
struct SliceStep {
  // So many phases are done: other threads may read `state` and what the phases wrote.
  void Pass(uint32_t num_phases) { num_passed.store(num_phases, std::memory_order_release); }
  void WaitFor(uint32_t num_phases) const;

  alignas(64) std::atomic<uint32_t> num_passed{0};
  alignas(64) StepState state;
  TriposStep step{};
  int32_t first_row = 0;                    // of the whole step
  int32_t arena_token = 0, arena_row = 0;  // where its part of the arenas begins
  std::vector<int32_t> query_start, seq_lens, last_rows;
  std::vector<QueryTile> tiles;
  std::unique_ptr<std::atomic<int64_t>[]> counters;
};

struct SliceOptions {
  int num_threads, max_num_tokens, max_num_rows;
  size_t num_counters;
  ArenaSize arena;
  bool has_cache;  // else sequences are attended as a whole, by themselves
  bool pools;      // one row per sequence, of all its tokens
  std::map<int, int> layers_of_window;  // attentions that see so many keys, 0: all -> how many
  double key_cost;                      // of a token's attention to one key in one layer; 1: a token's linears
};

class Slices {
 public:
  // Room for the largest step, so that planning allocates nothing.
  void Reserve(const SliceOptions& options);

  // Cuts the step. False: it is better run by all threads together.
  bool Plan(const TriposStep& step);

  // Makes the next slice for a thread its own step; false: there is none left.
  bool Take(const TriposStep& whole, int thread);

  // Whether each thread has exactly one slice, that of its number. Else it takes one after another.
  bool has_one_each() const { return options_.has_cache; }
  // Whether a slice begins inside a sequence.
  bool Continues(int slice) const { return cuts_[static_cast<size_t>(slice)].is_inside; }

  SliceStep& Own(int thread) { return own_[static_cast<size_t>(thread)]; }

 private:
  struct Cut {
    int32_t seq, token;  // the first of a slice
    bool is_inside;      // the sequence's first tokens of the step are in the slice before
    double cost;         // of all before
  };

  int64_t NumSlices(const TriposStep& step) const;
  double CostOf(const TriposStep& step, int32_t seq, int32_t num_tokens) const;
  int32_t TokensFor(const TriposStep& step, int32_t seq, double cost) const;
  bool IsEven(const TriposStep& step);
  int tokens_per_thread() const { return options_.max_num_tokens / options_.num_threads; }
  int rows_per_thread() const { return options_.max_num_rows / options_.num_threads; }

  SliceOptions options_{};
  int slice_tokens_ = 0;
  std::vector<Cut> cuts_;  // where each slice begins, and the end
  std::unique_ptr<SliceStep[]> own_;  // per thread
  std::vector<double> loads_;         // of each thread, were all as fast
  std::atomic<size_t> next_{0};
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_SLICES_H_
