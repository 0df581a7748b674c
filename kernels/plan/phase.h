// What a plan is lowered to: phases that every thread runs in order, with barriers only where one thread needs what
// another wrote.
#ifndef TRIPOS_PLAN_PHASE_H_
#define TRIPOS_PLAN_PHASE_H_

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/isa/kernels.h"
#include "kernels/plan/arena.h"
#include "kernels/plan/lora_step.h"
#include "kernels/plan/plan.h"

namespace tripos {

// One tile of queries of one sequence; heads come on top.
struct QueryTile {
  int32_t seq;
  int32_t first_token;
  int32_t num_queries;
  int32_t num_partitions;
  bool is_only;  // its sequence has no other query in the step
};

struct CacheView {
  KvLayout layout;
  uint8_t* data = nullptr;

  // A layer's cache at a kv head's chunk of block 0.
  uint8_t* Chunks(int layer, int kv_head) const {
    return data + static_cast<size_t>(layer) * layout.layer_bytes() + static_cast<size_t>(kv_head) * layout.chunk_bytes;
  }
};

// What phases may read of the running step.
struct StepState {
  const TriposStep* step = nullptr;
  int num_threads = 1;
  std::byte* token_arena = nullptr;
  std::byte* sampled_arena = nullptr;
  // Of private buffers. A step of one row has one row of each per thread, any other step has them with the others.
  bool is_single = false;  // one token, at most one row of logits
  std::byte* private_token_arena = nullptr;
  std::byte* private_sampled_arena = nullptr;
  std::byte* local_arena = nullptr;  // the thread's own
  CacheView cache;
  std::span<const QueryTile> tiles;
  int max_partitions = 1;  // of any tile
  std::span<std::atomic<int64_t>> counters;  // per phase one for each thread, zeroed at the start of the step
  std::span<float* const> scratch;           // per thread
  float* partials = nullptr;
  size_t num_partial_floats = 0;
  const LoraStep* lora = nullptr;     // nullptr: no row uses an adapter
  std::span<float* const> addends;    // per thread, kAddendFloats

  // Of a phase that takes all tasks from one counter, or deals to each thread its own.
  std::atomic<int64_t>& Counter(int phase, int thread = 0) const {
    return counters[static_cast<size_t>(phase * num_threads + thread)];
  }
  int64_t NumRows(Rows rows) const { return rows == Rows::kTokens ? step->num_tokens : step->num_rows; }
};

// A view of a buffer: row r starts at Row0(state) + r * stride bytes.
struct Operand {
  int buffer = -1;
  Rows rows = Rows::kTokens;
  int cols = 0;
  size_t stride = 0;       // bytes
  size_t buffer_offset = 0;  // per row, from the arena plan
  size_t column_bytes = 0;
  bool is_private = false, is_local = false;

  // Not of local buffers.
  std::byte* Row0(const StepState& s) const {
    std::byte* shared = rows == Rows::kTokens ? s.token_arena : s.sampled_arena;
    std::byte* own = rows == Rows::kTokens ? s.private_token_arena : s.private_sampled_arena;
    std::byte* arena = is_private ? own : shared;
    return arena + buffer_offset * static_cast<size_t>(s.NumRows(rows)) + column_bytes;
  }
  float* Row(const StepState& s, int64_t row) const {
    std::byte* first = Row0(s);
    if (is_local) {
      first = s.local_arena + buffer_offset * static_cast<size_t>(kLocalRows) + column_bytes;
      row %= kLocalRows;
    }
    return reinterpret_cast<float*>(first + static_cast<size_t>(row) * stride);
  }
};

// Even split of [0, count) over threads; the same for every phase, so that row-wise phases need no barrier between.
struct Range {
  int64_t first, last;
};
inline Range RangeOf(int64_t count, int thread, int num_threads) {
  return {count * thread / num_threads, count * (thread + 1) / num_threads};
}

// Steps of so few rows wait for memory: threads keep to their own share of a matrix and fetch ahead while they wait.
inline constexpr int64_t kFewRows = 8;
inline constexpr int64_t kPrefetchStep = 256;  // bytes

inline void PrefetchToL2(const uint8_t* p) {
  for (int64_t i = 0; i < kPrefetchStep; i += 64) __builtin_prefetch(p + i, 0, 2);
}

class Phase {
 public:
  virtual ~Phase() = default;
  bool NeedsBarrier(const StepState& state) const { return state.is_single ? needs_barrier_single : needs_barrier; }
  virtual void Run(const StepState& state, int thread) const = 0;
  // Whether the step has nothing for it: then its barrier is left out as well, so whatever reads what it writes must
  // have a barrier of its own, with nothing between the two.
  virtual bool IsIdle(const StepState& state) const {
    (void)state;
    return false;
  }
  // Asks for a little of what this thread will read here, from byte `at` of it on, while it waits for others anyway.
  // Returns where to go on, or `at` when there is nothing more to ask for.
  virtual int64_t Prefetch(const StepState& state, int thread, int64_t at) const {
    (void)state, (void)thread;
    return at;
  }
  virtual std::string Name() const = 0;  // for profiles: phases of one name are added up
  virtual std::vector<Operand*> Operands() = 0;
  // After the arena is planned.
  void Bind(const std::vector<Buffer>& buffers) {
    for (Operand* operand : Operands()) {
      if (operand->buffer < 0) continue;
      const Buffer& buffer = buffers[static_cast<size_t>(operand->buffer)];
      operand->buffer_offset = buffer.offset;
      operand->is_private = buffer.is_private;
      operand->is_local = buffer.is_local;
    }
  }

  std::vector<int> reads;   // buffers
  std::vector<int> writes;
  Rows rows = Rows::kTokens;
  bool is_row_wise = false;  // thread t touches only rows RangeOf(rows, t)
  bool is_repeated = false;  // row-wise, and each thread does all of it in a step of one row
  bool is_idle_single = false;  // has nothing to do in a step of one row
  bool needs_barrier = false;  // before it
  bool needs_barrier_single = false;  // before it in a step of one row
  bool reads_cache = false;  // also what other slices of the step have written
  int counter = -1;          // its place among the phases, see StepState::Counter
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_PHASE_H_
