// The phases that ops become. Lowering (lower.h) makes them; each splits its work evenly over the threads.
#ifndef TRIPOS_PLAN_PHASES_H_
#define TRIPOS_PLAN_PHASES_H_

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/plan/lora_term.h"
#include "kernels/plan/phase.h"

namespace tripos {

// Phases whose rows are independent: thread t does rows RangeOf(rows, t).
class RowPhase : public Phase {
 public:
  explicit RowPhase(const Kernels& kernels) : kernels_(kernels) { is_row_wise = true; }
  void Run(const StepState& state, int thread) const final {
    const Range range = RangeOf(state.NumRows(rows), thread, state.num_threads);
    RunRows(state, range.first, range.last);
  }
  virtual void RunRows(const StepState& state, int64_t first, int64_t last) const = 0;
  std::vector<Operand*> Operands() final {
    std::vector<Operand*> all;
    for (Operand& operand : in) all.push_back(&operand);
    for (Operand& operand : out) all.push_back(&operand);
    return all;
  }

  std::vector<Operand> in, out;

 protected:
  const Kernels& kernels_;
};

// A row of an op, for the function that computes it.
struct OneRow {
  const RowPhase& phase;
  const StepState& state;
  const int64_t row;

  const float* In(size_t input, int64_t at) const { return phase.in[input].Row(state, at); }
  const float* In(size_t input) const { return In(input, row); }
  float* Out(size_t output = 0) const { return phase.out[output].Row(state, row); }
  int Cols() const { return phase.out[0].cols; }
};

// An op that is a function of each row and no more.
class EachRowPhase : public RowPhase {
 public:
  using Each = std::function<void(const OneRow&)>;
  EachRowPhase(const Kernels& kernels, const char* name, Each each)
      : RowPhase(kernels), name_(name), each_(std::move(each)) {}
  std::string Name() const override { return name_; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override {
    for (int64_t row = first; row < last; ++row) each_({*this, state, row});
  }

 private:
  const char* const name_;
  const Each each_;
};

// Row phases one after another, a few rows at a time, so that what one writes the next finds in L1.
class RowRunPhase : public Phase {
 public:
  RowRunPhase() { is_row_wise = true; }
  void Run(const StepState& state, int thread) const override;
  std::string Name() const override;
  std::vector<Operand*> Operands() override;

  std::vector<std::unique_ptr<RowPhase>> phases;
};

// in: k, v. Of tokens alone in their sequence's step attention itself writes them where `is_only_written_late`: it has
// asked for the lines by then, which a row phase would wait for.
class WriteKvPhase : public RowPhase {
 public:
  using RowPhase::RowPhase;
  int layer = 0;
  bool is_only_written_late = false;

  std::string Name() const override { return "write_kv"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class LinearPhase : public Phase {
 public:
  void Run(const StepState& state, int thread) const override;
  int64_t Prefetch(const StepState& state, int thread, int64_t at) const override;
  std::string Name() const override;
  std::vector<Operand*> Operands() override { return {&in, &out, &lora.shrunk}; }

  const Kernels* kernels = nullptr;
  linear::PackedMatrix matrix;
  std::vector<float> bias;
  linear::Epilogue epilogue = linear::Epilogue::kStore;
  Operand in, out;
  LoraTerm lora;
  const LinearPhase* following = nullptr;  // whose first panels a thread fetches with its last ones

 private:
  std::span<const uint8_t> FirstPanels(const StepState& state, int thread) const;
  void RunFewRows(const StepState& state, int thread, linear::RunArgs args) const;
  // Panels of a thread's own share when rows are few; those after the last thread's share go to whoever is first.
  int64_t OwnPanels(const StepState& state) const { return matrix.num_panels() * 9 / 10 / state.num_threads; }
  // What follows is dealt out in pieces that grow smaller towards the end: of `first` on, a part of what is left.
  int64_t PieceAt(const StepState& state, int64_t first, int64_t least) const {
    const int64_t left = matrix.num_panels() - first;
    return std::min(left, std::max(least, left / (2 * state.num_threads)));
  }
};

struct AttentionShape {
  int layer = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, window = 0;
  float scale = 1.0f, softcap = 0.0f;

  int group() const { return num_heads / num_kv_heads; }
  int heads_per_tile() const { return group() < kTileRows ? group() : kTileRows; }
  int tiles_per_kv_head() const { return (group() + heads_per_tile() - 1) / heads_per_tile(); }
  int queries_per_tile() const { return kTileRows / heads_per_tile(); }
  // Whether one unit reads all that a kv head has of a sequence with a single query, and so may write the head's newest key.
  bool writes_only() const { return tiles_per_kv_head() == 1; }
};

// Attention of all tiles. Long contexts with few tiles are split by partition; CombinePhase then folds the partials.
class AttentionPhase : public Phase {
 public:
  explicit AttentionPhase(const Kernels& kernels) : kernels_(kernels) { reads_cache = true; }
  void Run(const StepState& state, int thread) const override;
  int64_t Prefetch(const StepState& state, int thread, int64_t at) const override;
  std::string Name() const override { return "attention"; }
  std::vector<Operand*> Operands() override { return {&q, &k, &v, &out}; }

  AttentionShape shape;
  Operand q, k, v, out;

 protected:
  bool IsSplit(const StepState& state) const;
  int NumHeadTiles() const { return shape.num_kv_heads * shape.tiles_per_kv_head(); }
  AttentionTile TileOf(const StepState& state, const QueryTile& tile, int head_tile) const;
  void WriteOnly(const StepState& state, const QueryTile& tile, int head_tile, int partition) const;
  const QueryTile& TileAt(const StepState& state, int64_t unit) const {
    return state.tiles[static_cast<size_t>(unit / NumHeadTiles())];
  }
  Range UnitsOf(const StepState& state, int thread) const;
  std::optional<int64_t> TakeUnit(const StepState& state, int thread, int* num_done) const;
  NextBlocks BlocksOf(const StepState& state, int64_t unit, int partition) const;
  Partial PartialOf(const StepState& state, int64_t unit, int partition) const;
  void RunWhole(const StepState& state, int thread) const;
  void RunPartitions(const StepState& state, int thread) const;
  int FirstPartition(const QueryTile& tile, const StepState& state) const;

  const Kernels& kernels_;
};

class CombinePhase : public AttentionPhase {
 public:
  using AttentionPhase::AttentionPhase;
  void Run(const StepState& state, int thread) const override;
  bool IsIdle(const StepState& state) const override { return !IsSplit(state); }
  int64_t Prefetch(const StepState&, int, int64_t at) const override { return at; }
  std::string Name() const override { return "combine"; }
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_PHASES_H_
