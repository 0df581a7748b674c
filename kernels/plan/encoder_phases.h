// The phases of ops that only encoders use: attention without a cache, and pooling.
#ifndef TRIPOS_PLAN_ENCODER_PHASES_H_
#define TRIPOS_PLAN_ENCODER_PHASES_H_

#include <string>
#include <vector>

#include "kernels/plan/phases.h"

namespace tripos {

// Threads take one sequence and kv head at a time.
class SelfAttentionPhase : public Phase {
 public:
  explicit SelfAttentionPhase(const Kernels& kernels) : kernels_(kernels) {}
  void Run(const StepState& state, int thread) const override;
  void Bind(const std::vector<Buffer>& buffers) override;
  std::string Name() const override { return "self_attention"; }

  Operand q, k, v, out;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, left = -1, right = -1;
  float scale = 1.0f;

 private:
  const Kernels& kernels_;
};

class PoolPhase : public RowPhase {  // row s: the mean of sequence s
 public:
  using RowPhase::RowPhase;

  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
  std::string Name() const override { return "pool"; }

};

}  // namespace tripos

#endif  // TRIPOS_PLAN_ENCODER_PHASES_H_
