// Matrix multiplication y = x · wᵀ (+ bias) over prepacked weights.
//
// Owns: the packed layout, activation quantization, the kernels of every weight format (chosen in isa/kernels.h).
// Refuses to know: threads, plans, files. The caller splits work (SuggestSplit) and calls Run on each part.
//
// Every y[m, n] is computed in an order that depends only on (k, format, instruction set): never on the number of
// rows, the tile or the thread. Compile all kernels with -ffp-contract=off, or the compiler breaks that promise.
//
// Order of calls: PanelBytes -> allocate -> Pack (panel ranges, any thread) -> per step: Prepare (row ranges, once
// per distinct activation) -> Run (row x panel ranges).
#ifndef TRIPOS_KERNELS_OPS_LINEAR_H_
#define TRIPOS_KERNELS_OPS_LINEAR_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/include/tripos.h"

namespace tripos::linear {

// Raise with every change of the bytes inside a panel (linear_layout.h): packed checkpoints are refused by it.
inline constexpr int kPanelLayout = 2;

// Values are stored in packed checkpoints: append only.
enum class WeightFormat : uint8_t {
  kF32 = 0,
  kBF16 = 1,
  kF16 = 2,
  kInt8 = 3,       // one float scale per output channel
  kInt4 = 4,       // groups of 32 along k, each with a half scale and a half minimum
  kFp8 = 5,        // e4m3, one float scale per output channel
  kInt8Group = 6,  // groups of 32 along k, each with a half scale (GGUF Q8_0 without loss)
};
inline constexpr size_t kNumFormats = 7;


enum class SourceType : uint8_t {
  kF32 = TRIPOS_F32,
  kF16 = TRIPOS_F16,
  kBF16 = TRIPOS_BF16,
  kQ8_0 = TRIPOS_Q8_0,
  kQ4_0 = TRIPOS_Q4_0,
  kQ4_K = TRIPOS_Q4_K,
  kQ5_K = TRIPOS_Q5_K,
  kQ6_K = TRIPOS_Q6_K,
  kQ4_1 = TRIPOS_Q4_1,
  kQ5_0 = TRIPOS_Q5_0,
  kQ5_1 = TRIPOS_Q5_1,
  kQ2_K = TRIPOS_Q2_K,
  kQ3_K = TRIPOS_Q3_K,
};

// Row-major [rows, cols] as stored in the checkpoint; not owned.
struct SourceMatrix {
  SourceType type;
  const void* data;
  int64_t rows;
  int64_t cols;  // the same in all parts; a multiple of the block size (32 or 256) for GGUF block types
};

inline constexpr int64_t kPanelCols = 32;  // outputs per panel: two 512-bit or four 256-bit vectors
inline constexpr int64_t kGroup = 32;      // k per scale in the grouped formats
inline constexpr size_t kAlignment = 64;

// A packed weight [n, k]: ceil(n / 32) panels of panel_bytes, back to back, scales inside. It is one block of bytes,
// so writing it to a file and mapping the file is all that serialising needs (the four fields above `data` beside it).
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  // Two parts of n/2 rows (gate, up) interleaved 16 by 16, so that one panel holds both operands of 16 glu outputs.
  bool is_interleaved = false;
  int64_t n = 0;
  int64_t k = 0;
  const uint8_t* data = nullptr;  // 64-byte aligned, not owned

  int64_t num_panels() const;
  size_t panel_bytes() const;
  size_t bytes() const { return static_cast<size_t>(num_panels()) * panel_bytes(); }
};

size_t PanelBytes(WeightFormat format, int64_t k);
int64_t NumPanels(int64_t n);

// Packs panels [first_panel, last_panel) of `matrix` into `data` (the start of the whole packed matrix). `parts` are
// stacked along rows. Threads may pack disjoint ranges at once. False: the parts do not add up to [n, k] or a block
// type does not divide cols.
bool Pack(const PackedMatrix& matrix, std::span<const SourceMatrix> parts, int64_t first_panel, int64_t last_panel,
          uint8_t* data);

// The format that keeps a source's values (kInt4 for Q4_0, Q4_1 and Q4_K, kInt8Group for Q8_0, Q5_K and Q6_K ...).
WeightFormat NativeFormat(SourceType type);

// One row of any source type to float32, k values. False: unknown type.
bool DequantizeRow(SourceType type, const void* row, int64_t k, float* out);
size_t SourceRowBytes(SourceType type, int64_t k);

// Memory for packed weights: 2 MiB aligned, huge pages asked for, zeroed by the system. nullptr when out of memory.
uint8_t* AllocatePacked(size_t bytes);
void FreePacked(uint8_t* data, size_t bytes);

// How kernels read x: as it is, quantized per row to int8 (symmetric absmax), or rounded to bf16. Rows are prepared
// once for all matrices that read the same x in the same way.
enum class RowFormat : uint8_t { kFloat, kInt8, kBF16 };
inline constexpr size_t kNumRowFormats = 3;
size_t PreparedRowBytes(RowFormat format, int64_t k);  // 0 for kFloat: kernels read x itself

enum class Epilogue : uint8_t {
  kStore,        // y = xwᵀ + bias
  kAdd,          // y += xwᵀ + bias
  kGelu,         // y = act(xwᵀ + bias), erf form
  kGeluTanh,
  kGluSilu,      // interleaved matrices only: y[:, n/2] = act(gate) * up
  kGluGelu,
  kGluGeluTanh,
};

struct RunArgs {
  const void* rows = nullptr;  // prepared rows, or x (RowFormat::kFloat), row 0
  size_t row_bytes = 0;        // from one row to the next
  int64_t first_row = 0;
  int64_t last_row = 0;
  int64_t first_panel = 0;
  int64_t last_panel = 0;
  float* y = nullptr;  // row 0, column 0
  int64_t y_stride = 0;  // in floats
  const float* bias = nullptr;  // [n] in the order of the parts, or nullptr
  // What adapters add before the epilogue: [last_row - first_row][(last_panel - first_panel) * kPanelCols] in the order
  // of the panels, read where has_addend[row] (row as first_row) is not 0. nullptr: nothing.
  const float* addend = nullptr;
  const uint8_t* has_addend = nullptr;
  Epilogue epilogue = Epilogue::kStore;
  std::span<const uint8_t> after;  // the panels that this thread reads after these: fetched meanwhile
};

// How [num_rows, num_panels] is dealt to threads. Each owns a block, which it takes in tasks of at most row_step x
// panel_step, panel-fastest; who has none left goes on with the tasks of others.
//
// With rows enough a block is some rows times all panels: a thread then reads what it has itself computed, and its
// panels, those of the next matrix behind them, are one stream. With fewer rows blocks share them, so that each panel
// is read by one thread.
struct Split {
  int64_t num_rows = 0;
  int64_t num_panels = 0;
  int64_t row_parts = 1;
  int64_t panel_parts = 1;
  int64_t row_step = 1;
  int64_t panel_step = 1;

  // Sets the rows and panels of a thread's task. False: it has fewer.
  bool TaskOf(int thread, int64_t index, RunArgs* args) const;
  // The panels of that task; empty when the thread has fewer.
  std::span<const uint8_t> PanelsOf(const PackedMatrix& matrix, int thread, int64_t index) const;
};
// row_bytes: as in RunArgs.
Split SuggestSplit(const PackedMatrix& matrix, size_t row_bytes, int64_t num_rows, int threads);

}  // namespace tripos::linear

#endif  // TRIPOS_KERNELS_OPS_LINEAR_H_
