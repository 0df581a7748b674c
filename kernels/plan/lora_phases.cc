#include "kernels/plan/lora_phases.h"

#include <algorithm>

namespace tripos {

namespace {

bool HasSite(const StepState& state, Rows rows, int site) {
  if (state.lora == nullptr) return false;
  const std::vector<LoraChunk>& chunks = state.lora->Of(rows).chunks;
  return std::any_of(chunks.begin(), chunks.end(), [=](const LoraChunk& chunk) { return chunk.adapter->Has(site); });
}

}  // namespace

bool ShrinkPhase::IsIdle(const StepState& state) const { return !HasSite(state, rows, site); }

bool LoraTerm::IsIdle(const StepState& state, Rows rows) const { return kernels == nullptr || !HasSite(state, rows, site); }

void ShrinkPhase::Bind(const std::vector<Buffer>& buffers) {
  BindOperand(in, buffers);
  BindOperand(out, buffers);
}

void ShrinkPhase::Run(const StepState& state, int thread) const {
  (void)thread;
  const std::vector<LoraChunk>& chunks = state.lora->Of(rows).chunks;
  const int64_t num_panels = out.cols / lora::kPanel;
  std::atomic<int64_t>& next = state.Counter(counter);
  const int64_t num_tasks = static_cast<int64_t>(chunks.size()) * num_panels;
  for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
    const LoraChunk& chunk = chunks[static_cast<size_t>(task / num_panels)];
    const int panel = static_cast<int>(task % num_panels);
    if (!chunk.adapter->Has(site) || chunk.adapter->Panel(site, panel).data == nullptr) continue;
    lora::Rows batch;
    batch.count = chunk.count;
    for (int r = 0; r < chunk.count; ++r) {
      batch.in[r] = in.Row(state, chunk.rows[r]);
      batch.out[r] = out.Row(state, chunk.rows[r]) + panel * lora::kPanel;
    }
    kernels_.shrink(chunk.adapter->type(), chunk.adapter->Panel(site, panel), in.cols, batch);
  }
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
