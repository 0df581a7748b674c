// From ops to phases: packs weights, chooses kernels, places buffers and barriers. Everything that a step need not
// decide again is decided here.
#ifndef TRIPOS_PLAN_LOWER_H_
#define TRIPOS_PLAN_LOWER_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/plan/phases.h"
#include "kernels/util/thread_pool.h"

namespace tripos {

inline constexpr int32_t kInterleavedPanels = 256;  // in TriposPanels.panel_format

// A packed matrix and its bytes, which it owns unless they are mapped.
class OwnedMatrix {
 public:
  OwnedMatrix() = default;
  OwnedMatrix(OwnedMatrix&& other) noexcept { *this = std::move(other); }
  OwnedMatrix& operator=(OwnedMatrix&& other) noexcept {
    std::swap(matrix_, other.matrix_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~OwnedMatrix();

  // Reads the caller's panels in place.
  static OwnedMatrix Map(const linear::PackedMatrix& matrix);
  static OwnedMatrix Pack(linear::PackedMatrix shape, std::span<const linear::SourceMatrix> parts, ThreadPool& pool);
  const linear::PackedMatrix& matrix() const { return matrix_; }

 private:
  linear::PackedMatrix matrix_;
  uint8_t* bytes_ = nullptr;  // nullptr: not ours
};

struct LoweredPlan {
  PlanHeader header{};
  std::vector<std::unique_ptr<Phase>> phases;
  std::vector<Buffer> buffers;
  std::vector<OwnedMatrix> matrices;
  std::map<int, size_t> matrix_of_weight;
  std::vector<lora::Site> lora_sites;  // linears that carry adapters
  std::map<int, int> site_of_weight;
  ArenaSize arena;
  Operand logits;
  int queries_per_tile = 0;  // 0: no attention
  int num_head_tiles = 0;
  int64_t num_embed_rows = 0;  // token ids must be less
  int64_t num_positions = 0;   // positions must be less; 0: no table of positions
  int64_t num_token_types = 0;  // token types must be less; 0: no table of them
  int self_attention_dim = 0;   // the largest head_dim; 0: no self_attention
  bool pools = false;
  size_t weight_bytes = 0;
  std::map<std::string, std::string> kernels;  // op or format -> kernel
};

struct LowerOptions {
  Isa isa = Isa::kScalar;
  std::string weights = "auto";
};

// Throws Error.
LoweredPlan Lower(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool);

}  // namespace tripos

#endif  // TRIPOS_PLAN_LOWER_H_
