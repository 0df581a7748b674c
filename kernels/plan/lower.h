// From ops to phases: each op's row of the table makes its phases, one after another; nothing is fused here. Packs
// weights, chooses kernels, places buffers and barriers: everything that a step need not decide again.
#ifndef TRIPOS_PLAN_LOWER_H_
#define TRIPOS_PLAN_LOWER_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/plan/op_table.h"
#include "kernels/plan/phases.h"
#include "kernels/plan/weights.h"
#include "kernels/util/thread_pool.h"

namespace tripos {

struct LoweredPlan {
  PlanHeader header{};
  std::vector<std::unique_ptr<Phase>> phases;
  std::vector<Buffer> buffers;
  PackedWeights weights;
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
  std::map<std::string, std::string> kernels;  // op or format -> kernel
};

struct LowerOptions {
  const Kernels& kernels;  // outlives the plan
  KvType kv_type;
  std::string weights = "auto";
  TriposProgress progress = nullptr;
};

// What the rows of the op table lower with.
class Lowering {
 public:
  Lowering(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool);
  LoweredPlan Run();  // throws Error

  Operand View(const PlanView& view) const;
  Operand Whole(int tensor) const { return View({tensor, 0, plan_.tensors[static_cast<size_t>(tensor)].cols}); }
  int NewBuffer(Rows rows, size_t row_bytes);
  // A tensor lies where another did, which its op writes over.
  void WriteOver(int tensor, int old) { alias_[tensor] = old; }
  // What a linear of this format reads: the view itself, or its rows as the kernel reads them, made once for all that read the view so.
  // The format is known here only: `auto` and packed weights bring their own.
  Operand Prepared(const PlanView& view, linear::WeightFormat format);

  // Appends a phase with the buffers that it touches.
  template <typename P>
  P& Emit(std::unique_ptr<P> phase, Rows rows, std::vector<int> reads, std::vector<int> writes) {
    phase->rows = rows;
    phase->reads = std::move(reads);
    phase->writes = std::move(writes);
    P& result = *phase;
    out.phases.push_back(std::move(phase));
    return result;
  }
  template <typename P, typename... Args>
  P& EmitRows(std::vector<Operand> in, std::vector<Operand> outputs, Rows rows, Args&&... args) {
    std::vector<int> reads, writes;
    for (const Operand& operand : in) reads.push_back(operand.buffer);
    for (const Operand& operand : outputs) writes.push_back(operand.buffer);
    auto phase = std::make_unique<P>(kernels, std::forward<Args>(args)...);
    phase->in = std::move(in);
    phase->out = std::move(outputs);
    return Emit(std::move(phase), rows, std::move(reads), std::move(writes));
  }
  // Tells which instruction set an op's kernel is of; one that only copies has none.
  void NameKernel(const PlanOp& op, const char* isa) { out.kernels[op.row->name] = isa; }
  // An op that is `each` of every row of its outputs.
  void EachRow(const PlanOp& op, EachRowPhase::Each each);

  const Kernels& kernels;
  const KvType kv_type;
  WeightReader weights;
  LoweredPlan out;
  int partials_buffer = -1;  // stands for the partial softmaxes of all attentions

 private:
  int BufferOf(int tensor) const;
  void LinkLinears();

  const Plan& plan_;
  std::map<int, int> alias_;                         // tensor -> the tensor whose buffer it shares
  // (tensor, offset, format); tensors are written once
  std::map<std::tuple<int, int, linear::RowFormat>, Operand> prepared_;
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_LOWER_H_
