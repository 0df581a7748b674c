// Runs a lowered plan: owns the threads, the arena and the cache.
#ifndef TRIPOS_PLAN_EXECUTOR_H_
#define TRIPOS_PLAN_EXECUTOR_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/plan/lower.h"
#include "kernels/plan/slices.h"
#include "kernels/util/memory.h"
#include "kernels/util/thread_pool.h"

namespace tripos {

struct ExecutorSettings {
  int block_size;
  int max_num_tokens;
  int max_num_rows;
  int threads;
  std::string weights;
  KvType kv_type;
  int max_adapters;
  bool has_profile;
};

class Executor {
 public:
  explicit Executor(const TriposOptions& options);

  void Load(const void* plan, size_t plan_bytes, std::span<const TriposWeight> weights, TriposProgress progress);
  TriposPanels Panels(int32_t weight) const;
  void Reserve(int64_t num_blocks);
  // Fills or (no modules) frees a slot. Another thread may run a step meanwhile that does not use the slot.
  void SetAdapter(int32_t slot, std::span<const TriposLowRank> modules);
  void Run(const TriposStep& step, const TriposOutput& output);
  const std::string& Describe();

 private:
  struct PhaseTimes {
    double wait_s = 0.0;  // at the barrier before it
    double run_s = 0.0;
  };

  SliceOptions SliceOptionsOf(const LoweredPlan& plan) const;
  void PlanTiles(const TriposStep& step, std::vector<QueryTile>& tiles) const;
  void ReserveAdapters(size_t count);
  void RunThread(const StepState& state, const TriposOutput& output, int thread);
  void RunSlices(const StepState& whole, const TriposOutput& output, int thread);
  void RunAlone(SliceStep& own, int thread);
  void WaitForKeys(size_t phase, int thread);
  void FinishTogether(const TriposStep& step, const TriposOutput& output, int thread);
  void Sample(const StepState& state, const TriposStep& whole, int64_t first_row, const TriposOutput& output, int thread);
  void SampleLogits(const TriposStep& step, int64_t row, float* logits, const TriposOutput& output, int thread);
  template <typename Work>
  void Timed(size_t phase, int thread, double PhaseTimes::*part, const Work& work);
  size_t ScratchFloats(const LoweredPlan& plan) const;
  std::byte* LocalArena(int thread) const {
    return local_arena_.As<std::byte>() + static_cast<size_t>(thread) * plan_->arena.local_bytes();
  }

  const ExecutorSettings settings_;
  const ChosenKernels kernels_;
  ThreadPool pool_;
  std::optional<LoweredPlan> plan_;
  KvLayout layout_;
  Memory token_arena_, sampled_arena_, private_arena_, local_arena_, cache_, scratch_, sampler_scratch_, partials_;
  std::vector<float*> thread_scratch_;
  std::vector<QueryTile> tiles_;
  std::vector<std::unique_ptr<lora::Adapter>> adapters_;  // by slot
  LoraStep lora_step_;
  Memory addends_;
  std::vector<float*> thread_addends_;
  std::unique_ptr<std::atomic<int64_t>[]> counters_;
  Slices slices_;
  int64_t num_sliced_steps_ = 0;
  size_t num_alone_ = 0;  // phases that a thread runs alone with its slice; of the last linear others may do a part
  int64_t num_blocks_ = 0;
  std::string description_;

  std::vector<PhaseTimes> times_;  // [phases and the sampler, threads], of all steps since load; empty: no profile
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_EXECUTOR_H_
