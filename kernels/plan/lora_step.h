// Which rows of a step use which adapter: made once per step, read by every phase that adds an adapter's part.
#ifndef TRIPOS_PLAN_LORA_STEP_H_
#define TRIPOS_PLAN_LORA_STEP_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/include/tripos.h"
#include "kernels/ops/lora.h"
#include "kernels/plan/plan.h"

namespace tripos {

// Up to lora::kMaxRows rows of one adapter, by row.
struct LoraChunk {
  const lora::Adapter* adapter;
  int count;
  int32_t rows[lora::kMaxRows];
};

// The rows of one kind (of tokens, or of those sampled) that use an adapter.
struct LoraRows {
  std::vector<LoraChunk> chunks;
  std::vector<uint8_t> has_adapter;  // per row

  bool HasSite(int site) const;  // whether an adapter adds to that linear
  void Reserve(size_t max_rows, size_t max_adapters);
  void Group(int32_t num_rows, const std::vector<int32_t>& slot_of_row,
             const std::vector<std::unique_ptr<lora::Adapter>>& adapters);

 private:
  std::vector<size_t> open_;  // per slot: its last chunk + 1, 0: none
};

class LoraStep {
 public:
  void Reserve(size_t max_num_tokens, size_t max_num_rows, size_t max_adapters);
  // False: no row of the step uses an adapter. The step's slots were checked (step_check.h).
  bool Plan(const TriposStep& step, const std::vector<std::unique_ptr<lora::Adapter>>& adapters);

  const LoraRows& Of(Rows rows) const { return rows == Rows::kTokens ? tokens_ : sampled_; }

 private:
  LoraRows tokens_, sampled_;
  std::vector<int32_t> slot_of_token_, slot_of_row_;
};

// Throws Error for a slot that holds no adapter.
void CheckAdapterSlots(const TriposStep& step, const std::vector<std::unique_ptr<lora::Adapter>>& adapters);

}  // namespace tripos

#endif  // TRIPOS_PLAN_LORA_STEP_H_
