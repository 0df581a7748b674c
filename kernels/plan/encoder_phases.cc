#include "kernels/plan/encoder_phases.h"

namespace tripos {

void SelfAttentionPhase::Bind(const std::vector<Buffer>& buffers) {
  for (Operand* operand : {&q, &k, &v, &out}) BindOperand(*operand, buffers);
}

void SelfAttentionPhase::Run(const StepState& state, int thread) const {
  const int group = num_heads / num_kv_heads;
  const int64_t num_units = int64_t{state.step->num_seqs} * num_kv_heads;
  float* scratch = state.scratch[static_cast<size_t>(thread)];
  SelfAttentionArgs args;
  args.q_stride = q.stride / sizeof(float);
  args.k_stride = k.stride / sizeof(float);
  args.v_stride = v.stride / sizeof(float);
  args.out_stride = out.stride / sizeof(float);
  args.num_heads = group;
  args.head_dim = head_dim;
  args.left = left;
  args.right = right;
  args.scale = scale;
  std::atomic<int64_t>& next = state.Counter(counter);
  for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < num_units;) {
    const int64_t seq = unit / num_kv_heads, head = unit % num_kv_heads;
    const int32_t first = state.step->query_start[seq];
    args.num_tokens = state.step->query_start[seq + 1] - first;
    args.q = q.Row(state, first) + head * group * head_dim;
    args.k = k.Row(state, first) + head * head_dim;
    args.v = v.Row(state, first) + head * head_dim;
    args.out = out.Row(state, first) + head * group * head_dim;
    kernels_.self_attend(args, scratch);
  }
}

void PoolPhase::RunRows(const StepState& state, int64_t first, int64_t last) const {
  for (int64_t row = first; row < last; ++row) {
    const int32_t start = state.step->query_start[row], end = state.step->query_start[row + 1];
    const Operand& x = in[0];
    kernels_.mean(x.Row(state, start), x.stride / sizeof(float), end - start, x.cols, out[0].Row(state, row));
  }
}

}  // namespace tripos
