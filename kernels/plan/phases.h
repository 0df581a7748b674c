// The phases that ops become. Lowering (lower.cc) makes them; each splits its work evenly over the threads.
#ifndef TRIPOS_PLAN_PHASES_H_
#define TRIPOS_PLAN_PHASES_H_

#include <optional>
#include <vector>

#include "kernels/plan/lora_phases.h"
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
  void Bind(const std::vector<Buffer>& buffers) override {
    for (Operand& operand : in) BindOperand(operand, buffers);
    for (Operand& operand : out) BindOperand(operand, buffers);
  }

  std::vector<Operand> in, out;

 protected:
  const Kernels& kernels_;
};

// Row phases one after another, a few rows at a time, so that what one writes the next finds in L1.
class RowRunPhase : public Phase {
 public:
  RowRunPhase() { is_row_wise = true; }
  void Run(const StepState& state, int thread) const override;
  std::string Name() const override;
  void Bind(const std::vector<Buffer>& buffers) override;

  std::vector<std::unique_ptr<RowPhase>> phases;
};

class EmbedPhase : public RowPhase {
 public:
  using RowPhase::RowPhase;
  Table table;
  Source source = Source::kTokenIds;
  int row_offset = 0;
  float scale = 1.0f;

  std::string Name() const override { return "embed"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class NormPhase : public RowPhase {  // also add_norm: two inputs, outputs sum and normed
 public:
  using RowPhase::RowPhase;
  NormArgs args{};
  std::vector<float> weight, bias;

  std::string Name() const override { return "norm"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

// cos and sin of each token's angles, once per step and table: [T, 2 * half].
class RopeTablePhase : public RowPhase {
 public:
  using RowPhase::RowPhase;
  std::vector<float> inv_freq;
  float scale = 1.0f;

  std::string Name() const override { return "rope_table"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class RopePhase : public RowPhase {  // in: x, table
 public:
  using RowPhase::RowPhase;
  int head_dim = 0, half = 0;

  std::string Name() const override { return "rope"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class GluPhase : public RowPhase {  // also act: one input
 public:
  using RowPhase::RowPhase;
  ActKind act = ActKind::kSilu;

  std::string Name() const override { return "glu"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class AddPhase : public RowPhase {
 public:
  using RowPhase::RowPhase;

  std::string Name() const override { return "add"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

class SelectPhase : public RowPhase {
 public:
  using RowPhase::RowPhase;

  std::string Name() const override { return "select"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
};

// Activations as the integer formats want them.
class PreparePhase : public RowPhase {
 public:
  using RowPhase::RowPhase;
  linear::RowFormat format = linear::RowFormat::kInt8;

  std::string Name() const override { return "prepare"; }
  void RunRows(const StepState& state, int64_t first, int64_t last) const override;
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
  void Bind(const std::vector<Buffer>& buffers) override;

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
  void Bind(const std::vector<Buffer>& buffers) override;

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
