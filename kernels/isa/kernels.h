// The kernels of every op, and how the best are chosen from the list of instruction sets (kernels.cc).
//
// Every kernel computes a row, an attention tile or an output in an order that depends on that alone, so that results
// do not change with the batch, the thread or the tile that computed them.
#ifndef TRIPOS_ISA_KERNELS_H_
#define TRIPOS_ISA_KERNELS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/ops/attention.h"
#include "kernels/ops/encoder.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/lora.h"
#include "kernels/ops/rows.h"

namespace tripos {

template <typename Signature>
class Slot;

// One kernel, or none.
template <typename Result, typename... Args>
class Slot<Result(Args...)> {
 public:
  constexpr Slot() = default;
  constexpr Slot(Result (*kernel)(Args...)) : kernel_(kernel) {}  // NOLINT: tables name functions

  constexpr explicit operator bool() const { return kernel_ != nullptr; }
  Result operator()(Args... args) const { return kernel_(args...); }
  const char* isa() const { return isa_; }  // of a chosen kernel

  // Where there is none yet.
  void Take(const Slot& other, const char* isa) {
    if (kernel_ != nullptr || other.kernel_ == nullptr) return;
    kernel_ = other.kernel_;
    isa_ = isa;
  }

 private:
  Result (*kernel_)(Args...) = nullptr;
  const char* isa_ = nullptr;
};

// The linear of one weight format, and how it reads rows.
class LinearSlot : public Slot<void(const linear::PackedMatrix& matrix, const linear::RunArgs& args)> {
 public:
  constexpr LinearSlot() = default;
  constexpr LinearSlot(void (*kernel)(const linear::PackedMatrix&, const linear::RunArgs&), linear::RowFormat rows)
      : Slot(kernel), row_format_(rows) {}

  linear::RowFormat row_format() const { return row_format_; }

  void Take(const LinearSlot& other, const char* isa) {
    if (!*this) row_format_ = other.row_format_;
    Slot::Take(other, isa);
  }

 private:
  linear::RowFormat row_format_ = linear::RowFormat::kFloat;
};
using PrepareSlot = Slot<void(const float* x, int64_t x_stride, int64_t rows, int64_t k, void* out)>;
using AttendSlot =
    Slot<void(const KvLayout& layout, const AttentionTile& tile, int partition, float* scratch, const Partial& out)>;

// What one instruction set has, or what was chosen of several.
struct Kernels {
  Slot<void(const NormArgs& args, const float* x, float* y)> norm;
  Slot<void(const float* x, float* y, int cols, int head_dim, int half, const float* cos, const float* sin)> rope;
  Slot<void(ActKind act, const float* gate, const float* up, float* y, int cols)> glu;
  Slot<void(ActKind act, const float* x, float* y, int cols)> act;
  Slot<void(const float* a, const float* b, float* y, int cols)> add;
  Slot<void(float* x, float factor, int cols)> scale;

  // By WeightFormat.
  std::array<LinearSlot, linear::kNumFormats> linears;
  // By RowFormat, none for kFloat: rows [0, rows) of x (stride in floats) into out, PreparedRowBytes each. A choice has
  // those that its linears read.
  std::array<PrepareSlot, linear::kNumRowFormats> prepares;

  // One token's k and v of one kv head into its slot. `chunks`: the layer's cache, at the head's chunk of block 0.
  Slot<void(const KvLayout& layout, uint8_t* chunks, int32_t slot, const float* k, const float* v)> write_kv;
  // By KvType: a tile's partial softmax over one partition. scratch: kAttendScratchFloats.
  std::array<AttendSlot, kNumKvTypes> attends;
  // Folds `next` into `total`; the order of calls is the order of partitions.
  Slot<void(const Partial& total, const Partial& next, int num_rows, int padded_dim)> merge;
  Slot<void(const AttentionTile& tile, const Partial& total, int head_dim, int padded_dim)> finish;
  Slot<void(const SelfAttentionArgs& args, float* scratch)> self_attend;
  // The mean of `num_rows` rows, `stride` floats apart.
  Slot<void(const float* x, size_t stride, int num_rows, int cols, float* y)> mean;

  // Adapters. shrink: out[0..16) = scale · Σ_k in[k] · panel[k][0..16).
  // expand, of half panels i = 0 .. num_halves - 1: out[16 i ..] = Σ over its blocks and their ranks r of
  // in[first_col + r] · block[r][0..16); zero without blocks.
  Slot<void(lora::Type type, const lora::ShrinkPanel& panel, int64_t k, const lora::Rows& rows)> shrink;
  Slot<void(lora::Type type, const lora::Blocks& blocks, int64_t num_halves, const lora::Rows& rows)> expand;

  // Sampling, over `count` values. exp_sum: of exp(x - largest). exp_weights: exp(x / divisor - largest).
  // at_least: writes the indices of the values >= cut, in order; returns how many.
  Slot<float(const float* x, int64_t count)> max;
  Slot<bool(const float* x, int64_t count)> all_finite;
  Slot<double(const float* x, int64_t count, float largest)> exp_sum;
  Slot<void(const float* x, int64_t count, float largest, float divisor, float* y)> exp_weights;
  Slot<double(const float* x, int64_t count)> sum;
  Slot<int64_t(const float* x, int64_t count, float cut, int32_t* ids)> at_least;

  // Loops that measure the machine; each returns the operations (or bytes) that it did. All but those of reading and fp32
  // may be missing in a choice too; call that of bf16 only where the CPU has it.
  Slot<int64_t(const void* data, int64_t bytes)> peak_read;
  Slot<int64_t()> peak_fp32, peak_bf16, peak_int8, peak_tiles_bf16, peak_tiles_int8;

  using WeightFormat = linear::WeightFormat;
  constexpr LinearSlot& LinearOf(WeightFormat format) { return linears[static_cast<size_t>(format)]; }
  constexpr const LinearSlot& LinearOf(WeightFormat format) const { return linears[static_cast<size_t>(format)]; }
  constexpr PrepareSlot& PrepareOf(linear::RowFormat format) { return prepares[static_cast<size_t>(format)]; }
  constexpr const PrepareSlot& PrepareOf(linear::RowFormat format) const {
    return prepares[static_cast<size_t>(format)];
  }
  constexpr AttendSlot& AttendOf(KvType type) { return attends[static_cast<size_t>(type)]; }
  constexpr const AttendSlot& AttendOf(KvType type) const { return attends[static_cast<size_t>(type)]; }
};

struct ChosenKernels : Kernels {
  const char* isa = nullptr;  // the instruction set asked for: of some slots a later one
};

// Of each slot the first kernel from the named instruction set on in the list, or of "auto", that this CPU runs. Throws
// Error where the name is unknown, or the CPU has not what it names.
ChosenKernels ChooseKernels(const std::string& isa);

// Names of the list, best first: all, or those that this CPU has.
std::string IsaNames(bool only_supported, const char* separator = ",");

}  // namespace tripos

#endif  // TRIPOS_ISA_KERNELS_H_
