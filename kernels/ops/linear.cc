// Sizes, memory and how to split work: what does not depend on the instruction set.
#include "kernels/ops/linear.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/ops/linear_layout.h"

namespace tripos::linear {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kRowsPerThread = 24;                // two tiles, and weights still stream slower than memory gives
constexpr int64_t kTasksPerBlock = 4;
constexpr size_t kRowBlockBytes = size_t{448} << 10;  // of activations, beside the panels in a 1 MiB L2

size_t RoundUp(size_t x, size_t unit) { return (x + unit - 1) / unit * unit; }

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

size_t PanelBytes(WeightFormat format, int64_t k) {
  const size_t depth = static_cast<size_t>(k);
  const size_t groups = static_cast<size_t>(PaddedK(k) / kGroup);
  switch (format) {
    case WeightFormat::kF32: return depth * 128;
    case WeightFormat::kBF16: return groups * 2048;
    case WeightFormat::kF16: return depth * 64;
    case WeightFormat::kFp8: return 128 + (depth + 1) / 2 * 64;
    case WeightFormat::kInt8: return 128 + groups * 1024;
    case WeightFormat::kInt4: return groups * kInt4GroupBytes;
    case WeightFormat::kInt8Group: return groups * kInt8GroupBytes;
  }
  return 0;
}

int64_t NumPanels(int64_t n) { return CeilDiv(n, kPanelCols); }
int64_t PackedMatrix::num_panels() const { return is_interleaved ? CeilDiv(n / 2, 16) : NumPanels(n); }
size_t PackedMatrix::panel_bytes() const { return PanelBytes(format, k); }

size_t PreparedRowBytes(RowFormat format, int64_t k) {
  switch (format) {
    case RowFormat::kFloat: return 0;
    case RowFormat::kInt8:
      return RoundUp(GroupSumOffset(k) + static_cast<size_t>(PaddedK(k) / kGroup) * 4, kAlignment);
    case RowFormat::kBF16: return static_cast<size_t>(PaddedK(k)) * 2;
  }
  return 0;
}

uint8_t* AllocatePacked(size_t bytes) {
  const size_t size = RoundUp(std::max<size_t>(bytes, 1), kHugePage);
  // Over-allocate by one huge page to align, then give the ends back.
  void* raw = mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const uintptr_t start = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = RoundUp(start, kHugePage);
  if (aligned > start) munmap(raw, aligned - start);
  if (aligned < start + kHugePage) munmap(reinterpret_cast<void*>(aligned + size), start + kHugePage - aligned);
  uint8_t* data = reinterpret_cast<uint8_t*>(aligned);
#if defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE);
#endif
  return data;
}

void FreePacked(uint8_t* data, size_t bytes) {
  if (data != nullptr) munmap(data, RoundUp(std::max<size_t>(bytes, 1), kHugePage));
}

Split SuggestSplit(const PackedMatrix& matrix, size_t row_bytes, int64_t num_rows, int threads) {
  const int64_t workers = std::max(1, threads);
  Split split;
  split.num_rows = num_rows;
  split.num_panels = matrix.num_panels();
  for (int64_t parts = 1; parts <= workers && num_rows >= parts * kRowsPerThread; ++parts) {
    if (workers % parts == 0) split.row_parts = parts;
  }
  split.panel_parts = workers / split.row_parts;
  // Rows: blocks of equal height that fit in L2, so that a panel is reused from L1 or L2 within its block.
  const int64_t tallest = std::max<int64_t>(kRowsPerThread, static_cast<int64_t>(kRowBlockBytes / row_bytes));
  const int64_t rows = CeilDiv(std::max<int64_t>(num_rows, 1), split.row_parts);
  split.row_step = CeilDiv(rows, CeilDiv(rows, tallest));
  // Panels: what the kernels keep in L2 at a time, but several tasks, so that a disturbed thread holds up no others.
  const int64_t group = static_cast<int64_t>(kPanelGroupBytes / matrix.panel_bytes());
  const int64_t share = CeilDiv(split.num_panels, split.panel_parts);
  split.panel_step = std::clamp<int64_t>(CeilDiv(share, kTasksPerBlock), 1, std::max<int64_t>(1, group));
  return split;
}

bool Split::TaskOf(int thread, int64_t index, RunArgs* args) const {
  const auto bound = [](int64_t count, int64_t part, int64_t parts) { return count * part / parts; };
  const int64_t row_part = thread / panel_parts, panel_part = thread % panel_parts;
  const int64_t last_row = bound(num_rows, row_part + 1, row_parts);
  const int64_t first_panel = bound(num_panels, panel_part, panel_parts);
  const int64_t count = bound(num_panels, panel_part + 1, panel_parts) - first_panel;
  const int64_t steps = CeilDiv(count, panel_step);
  if (steps == 0) return false;
  args->first_row = bound(num_rows, row_part, row_parts) + index / steps * row_step;
  args->last_row = std::min(args->first_row + row_step, last_row);
  args->first_panel = first_panel + bound(count, index % steps, steps);  // even: each fetches the next meanwhile
  args->last_panel = first_panel + bound(count, index % steps + 1, steps);
  return args->first_row < last_row;
}

std::span<const uint8_t> Split::PanelsOf(const PackedMatrix& matrix, int thread, int64_t index) const {
  RunArgs task;
  if (!TaskOf(thread, index, &task)) return {};
  const auto at = [&](int64_t panel) { return matrix.data + static_cast<size_t>(panel) * matrix.panel_bytes(); };
  return {at(task.first_panel), at(task.last_panel)};
}

}  // namespace tripos::linear
