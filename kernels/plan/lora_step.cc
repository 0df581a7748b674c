#include "kernels/plan/lora_step.h"

#include <algorithm>

#include "kernels/util/error.h"

namespace tripos {

bool LoraRows::HasSite(int site) const {
  return std::any_of(chunks.begin(), chunks.end(), [=](const LoraChunk& c) { return c.adapter->Has(site); });
}

void LoraRows::Reserve(size_t max_rows, size_t max_adapters) {
  chunks.reserve(max_rows / lora::kMaxRows + max_adapters + 1);
  has_adapter.resize(max_rows);
  open_.resize(max_adapters);
}

void LoraRows::Group(int32_t num_rows, const std::vector<int32_t>& slot_of_row,
                     const std::vector<std::unique_ptr<lora::Adapter>>& adapters) {
  chunks.clear();
  std::fill(open_.begin(), open_.end(), 0);
  for (int32_t row = 0; row < num_rows; ++row) {
    const int32_t slot = slot_of_row[static_cast<size_t>(row)];
    has_adapter[static_cast<size_t>(row)] = slot >= 0;
    if (slot < 0) continue;
    size_t& open = open_[static_cast<size_t>(slot)];
    if (open == 0 || chunks[open - 1].count == lora::kMaxRows) {
      chunks.push_back({adapters[static_cast<size_t>(slot)].get(), 0, {}});
      open = chunks.size();
    }
    LoraChunk& chunk = chunks[open - 1];
    chunk.rows[chunk.count++] = row;
  }
}

void LoraStep::Reserve(size_t max_num_tokens, size_t max_num_rows, size_t max_adapters) {
  tokens_.Reserve(max_num_tokens, max_adapters);
  sampled_.Reserve(max_num_rows, max_adapters);
  slot_of_token_.resize(max_num_tokens);
  slot_of_row_.resize(max_num_rows);
}

bool LoraStep::Plan(const TriposStep& step, const std::vector<std::unique_ptr<lora::Adapter>>& adapters) {
  if (step.adapter_slots == nullptr) return false;
  const auto slots = step.adapter_slots;
  if (std::all_of(slots, slots + step.num_seqs, [](int32_t slot) { return slot < 0; })) return false;
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    std::fill(slot_of_token_.begin() + step.query_start[b], slot_of_token_.begin() + step.query_start[b + 1], slots[b]);
  }
  for (int32_t r = 0; r < step.num_rows; ++r) {
    slot_of_row_[static_cast<size_t>(r)] = slot_of_token_[static_cast<size_t>(step.last_rows[r])];
  }
  tokens_.Group(step.num_tokens, slot_of_token_, adapters);
  sampled_.Group(step.num_rows, slot_of_row_, adapters);
  return true;
}

void CheckAdapterSlots(const TriposStep& step, const std::vector<std::unique_ptr<lora::Adapter>>& adapters) {
  if (step.adapter_slots == nullptr) return;
  for (int32_t b = 0; b < step.num_seqs; ++b) {
    const int32_t slot = step.adapter_slots[b];
    if (slot == -1) continue;
    if (slot < 0 || static_cast<size_t>(slot) >= adapters.size() || adapters[static_cast<size_t>(slot)] == nullptr) {
      throw Error(Format("step: adapter_slots[%d] is %d, which holds no adapter", b, slot));
    }
  }
}

}  // namespace tripos
