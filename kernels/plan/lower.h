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

// The packed matrices of a plan in one block of huge pages, in the order of their use: small ones share a page, and what
// a step reads next follows what it reads now. A mapped file has small pages, which cost a tenth of a decode step.
class PanelMemory {
 public:
  explicit PanelMemory(size_t bytes = 0);  // throws Error when the system refuses
  PanelMemory(PanelMemory&& other) noexcept { *this = std::move(other); }
  PanelMemory& operator=(PanelMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(used_, other.used_);
    return *this;
  }
  ~PanelMemory();

  uint8_t* Take(size_t bytes);  // a multiple of 64

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0, used_ = 0;
};

struct LoweredPlan {
  PlanHeader header{};
  std::vector<std::unique_ptr<Phase>> phases;
  std::vector<Buffer> buffers;
  PanelMemory panels;
  std::vector<linear::PackedMatrix> matrices;  // in `panels`
  std::map<int, size_t> matrix_of_weight;
  std::vector<lora::Site> lora_sites;  // linears that carry adapters
  std::map<int, int> site_of_weight;
  ArenaSize arena;
  Operand logits;
  int queries_per_tile = 0;  // 0: no attention
  std::map<int, int> layers_of_window;  // attentions that see so many keys, 0: all -> how many there are
  int64_t num_embed_rows = 0;  // token ids must be less
  int64_t num_positions = 0;   // positions must be less; 0: no table of positions
  int64_t num_token_types = 0;  // token types must be less; 0: no table of them
  int self_attention_dim = 0;   // the largest head_dim; 0: no self_attention
  bool pools = false;
  size_t weight_bytes = 0;
  std::map<std::string, std::string> kernels;  // op or format -> kernel
};

struct LowerOptions {
  const Kernels& kernels;  // outlives the plan
  KvType kv_type;
  std::string weights = "auto";
  TriposProgress progress = nullptr;
};

// Throws Error.
LoweredPlan Lower(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool);

}  // namespace tripos

#endif  // TRIPOS_PLAN_LOWER_H_
