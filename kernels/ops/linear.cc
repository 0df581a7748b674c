// Sizes, memory, the list of kernels and how to split work: what does not depend on the instruction set.
#include "kernels/ops/linear.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "kernels/ops/linear_kernels.h"
#include "kernels/ops/linear_layout.h"

namespace tripos::linear {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kTaskBytes = int64_t{64} << 10;     // of weights, about a microsecond for a single row
constexpr size_t kRowBlockBytes = size_t{448} << 10;  // of activations, beside the panels in a 1 MiB L2

size_t RoundUp(size_t x, size_t unit) { return (x + unit - 1) / unit * unit; }

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

const Kernels* const kKernels[] = {
#if defined(__x86_64__)
    &kAvx512Kernels,
    &kAvx2Kernels,
#endif
    &kScalarKernels,
};

}  // namespace

size_t PanelBytes(WeightFormat format, int64_t k) {
  const size_t depth = static_cast<size_t>(k);
  const size_t groups = static_cast<size_t>(PaddedK(k) / kGroup);
  switch (format) {
    case WeightFormat::kF32: return depth * 128;
    case WeightFormat::kBF16:
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

size_t PreparedRowBytes(WeightFormat format, int64_t k) {
  switch (format) {
    case WeightFormat::kInt8:
    case WeightFormat::kInt4:
    case WeightFormat::kInt8Group:
      return RoundUp(GroupSumOffset(k) + static_cast<size_t>(PaddedK(k) / kGroup) * 4, kAlignment);
    default: return 0;
  }
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

std::span<const Kernels* const> AllKernels() { return kKernels; }

const Kernels* FindKernels(const char* isa) {
  const bool is_auto = isa == nullptr || *isa == '\0' || std::strcmp(isa, "auto") == 0;
  for (const Kernels* kernels : kKernels) {
    if ((is_auto || std::strcmp(isa, kernels->name) == 0) && kernels->is_supported()) return kernels;
  }
  return nullptr;
}

Split SuggestSplit(const PackedMatrix& matrix, int64_t num_rows, int threads) {
  const int64_t panels = matrix.num_panels();
  const int64_t workers = std::max(1, threads);
  const size_t prepared = PreparedRowBytes(matrix.format, matrix.k);
  const size_t row_bytes = prepared > 0 ? prepared : static_cast<size_t>(matrix.k) * sizeof(float);
  // Rows: blocks of equal height that fit in L2, so that a panel is reused from L1 or L2 within its block.
  const int64_t block = std::max<int64_t>(24, static_cast<int64_t>(kRowBlockBytes / row_bytes));
  int64_t row_blocks = CeilDiv(std::max<int64_t>(num_rows, 1), block);
  // Few panels and many rows: cut rows as well, so that no worker idles while another finishes its last panel.
  while (CeilDiv(panels * row_blocks, workers) * workers * 8 > panels * row_blocks * 9 &&
         CeilDiv(num_rows, row_blocks + 1) >= 24) {
    ++row_blocks;
  }
  const int64_t row_step = CeilDiv(std::max<int64_t>(num_rows, 1), row_blocks);
  // Panels: up to four tasks per worker, so that a disturbed worker does not hold up the others, but no task so short
  // that taking it shows. Among those the step that lets all workers end together.
  const int64_t share = CeilDiv(panels, workers);
  int64_t smallest = CeilDiv(panels, workers * 4);
  if (num_rows <= 1) smallest = std::max(smallest, CeilDiv(kTaskBytes, static_cast<int64_t>(matrix.panel_bytes())));
  int64_t panel_step = share;
  for (int64_t step = share; step >= smallest && step > 0; --step) {
    if (CeilDiv(CeilDiv(panels, step), workers) * step <= CeilDiv(CeilDiv(panels, panel_step), workers) * panel_step)
      panel_step = step;
  }
  return {row_step, std::max<int64_t>(1, panel_step)};
}

}  // namespace tripos::linear
