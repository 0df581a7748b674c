#include "kernels/plan/lora_term.h"

#include <algorithm>

namespace tripos {

bool LoraTerm::IsIdle(const StepState& state, Rows rows) const {
  return kernels == nullptr || state.lora == nullptr || !state.lora->Of(rows).HasSite(site);
}

linear::Split LoraTerm::Bound(linear::Split split) {
  split.row_step = std::min<int64_t>(split.row_step, kAddendFloats / linear::kPanelCols);
  split.panel_step = std::clamp<int64_t>(kAddendFloats / linear::kPanelCols / split.row_step, 1, split.panel_step);
  return split;
}

void LoraTerm::Expand(const StepState& state, Rows rows, int thread, linear::RunArgs& args) const {
  const LoraRows& lora_rows = state.lora->Of(rows);
  float* addend = state.addends[static_cast<size_t>(thread)];
  args.addend = addend;
  args.has_addend = lora_rows.has_adapter.data();
  const size_t stride = static_cast<size_t>((args.last_panel - args.first_panel) * linear::kPanelCols);
  for (const LoraChunk& chunk : lora_rows.chunks) {
    lora::Rows batch;
    for (int r = 0; r < chunk.count; ++r) {
      if (chunk.rows[r] < args.first_row || chunk.rows[r] >= args.last_row) continue;
      batch.out[batch.count] = addend + static_cast<size_t>(chunk.rows[r] - args.first_row) * stride;
      batch.in[batch.count++] = shrunk.Row(state, chunk.rows[r]);
    }
    if (chunk.adapter->Has(site)) {
      const lora::Blocks blocks = chunk.adapter->From(site, 2 * args.first_panel);
      kernels->expand(chunk.adapter->type(), blocks, 2 * (args.last_panel - args.first_panel), batch);
    } else {
      for (int r = 0; r < batch.count; ++r) std::fill_n(batch.out[r], stride, 0.0f);
    }
  }
}

}  // namespace tripos
