#include "kernels/plan/plan.h"

#include "kernels/ops/lora.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

template <typename T>
std::span<const T> Take(const uint8_t*& at, const uint8_t* end, int32_t count) {
  if (count < 0 || static_cast<size_t>(end - at) < count * sizeof(T)) throw Error("the plan's bytes end too early");
  std::span<const T> span(reinterpret_cast<const T*>(at), static_cast<size_t>(count));
  at += count * sizeof(T);
  return span;
}

// What is checked of one op: enough that no kernel can leave its operands.
class OpChecker {
 public:
  OpChecker(const Plan& plan, size_t index) : plan_(plan), op_(plan.ops[index]), index_(index) {}

  void Check() const {
    Demand(op_.kind >= OpKind::kEmbed && op_.kind < OpKind::kCount, "kind is unknown");
    const bool is_attention = op_.kind == OpKind::kAttention || op_.kind == OpKind::kSelfAttention;
    const bool is_embed = op_.kind == OpKind::kEmbed;
    const bool is_pair = op_.kind == OpKind::kGlu || op_.kind == OpKind::kAdd || op_.kind == OpKind::kAddNorm;
    const bool is_adapted = op_.kind == OpKind::kLinear && op_.num_inputs == 2;
    Demand(op_.num_inputs == (is_embed ? 0 : is_attention ? 3 : is_pair || is_adapted ? 2 : 1), "wrong number of inputs");
    Demand(op_.num_outputs == (op_.kind == OpKind::kAddNorm ? 2 : 1), "wrong number of outputs");
    for (int i = 0; i < op_.num_inputs; ++i) CheckView(op_.inputs[i]);
    for (int i = 0; i < op_.num_outputs; ++i) {
      Demand(InRange(op_.outputs[i], plan_.tensors.size()), "output is not a tensor");
    }
    Demand(op_.num_weights >= 0 && op_.num_weights <= 2, "wrong number of weights");
    for (int i = 0; i < op_.num_weights; ++i) Demand(InRange(op_.weights[i], plan_.weights.size()), "weight is unknown");
    CheckShapes();
  }

 private:
  static bool InRange(int32_t i, size_t size) { return i >= 0 && static_cast<size_t>(i) < size; }
  const PlanTensor& Output(int i) const { return plan_.tensors[static_cast<size_t>(op_.outputs[i])]; }
  const PlanWeight& Weight(int i) const { return plan_.weights[static_cast<size_t>(op_.weights[i])]; }
  Rows RowsOf(const PlanView& view) const { return plan_.tensors[static_cast<size_t>(view.tensor)].rows; }

  void Demand(bool holds, const char* what) const {
    if (!holds) throw Error(Format("op %zu of the plan (kind %d): %s", index_, static_cast<int>(op_.kind), what));
  }

  void CheckView(const PlanView& view) const {
    Demand(InRange(view.tensor, plan_.tensors.size()), "input is not a tensor");
    const int64_t cols = plan_.tensors[static_cast<size_t>(view.tensor)].cols;
    Demand(view.offset >= 0 && view.cols > 0 && int64_t{view.offset} + view.cols <= cols, "input leaves its tensor");
  }

  void CheckLikeInput(int output) const {
    const PlanView& in = op_.inputs[0];
    Demand(Output(output).cols == in.cols && Output(output).rows == RowsOf(in), "output is not shaped like its input");
  }

  void CheckNormWeights() const {
    Demand(op_.num_weights >= 1 && op_.inputs[0].cols % Weight(0).rows == 0, "weight does not divide the columns");
    Demand(op_.num_weights == 1 || Weight(1).rows == Weight(0).rows, "bias differs from weight");
    Demand(op_.norm_kind == NormKind::kRms || op_.norm_kind == NormKind::kLayer, "norm kind is unknown");
  }

  void CheckAttention() const {
    const int64_t heads = op_.num_heads, kv_heads = op_.num_kv_heads, dim = op_.head_dim;
    const PlanHeader& h = plan_.header;
    Demand(heads > 0 && kv_heads > 0 && dim > 0 && heads % kv_heads == 0, "heads are not a multiple of kv heads");
    const bool fits_cache = kv_heads == h.num_kv_heads && dim == h.head_dim && InRange(op_.layer, static_cast<size_t>(h.num_layers));
    Demand(fits_cache || op_.kind == OpKind::kSelfAttention, "does not fit the cache");
    Demand(op_.inputs[0].cols == heads * dim && op_.inputs[1].cols == kv_heads * dim && op_.inputs[2].cols == kv_heads * dim,
           "columns differ from heads x head_dim");
    for (const PlanView& view : op_.inputs) Demand(RowsOf(view) == Rows::kTokens, "inputs must have a row per token");
    Demand(op_.window >= 0 && op_.left >= -1 && op_.right >= -1, "a window is negative");
    CheckLikeInput(0);
  }

  void CheckShapes() const {
    switch (op_.kind) {
      case OpKind::kEmbed:
        Demand(op_.source >= Source::kTokenIds && op_.source <= Source::kTokenTypes, "source is unknown");
        Demand(op_.num_weights == 1 && Weight(0).cols == Output(0).cols && Output(0).rows == Rows::kTokens, "table differs");
        break;
      case OpKind::kNorm:
        CheckLikeInput(0);
        CheckNormWeights();
        break;
      case OpKind::kAddNorm:
        CheckLikeInput(0);
        CheckLikeInput(1);
        CheckNormWeights();
        [[fallthrough]];
      case OpKind::kAdd:
      case OpKind::kGlu:
        Demand(op_.inputs[0].cols == op_.inputs[1].cols && RowsOf(op_.inputs[0]) == RowsOf(op_.inputs[1]), "inputs differ");
        CheckLikeInput(0);
        break;
      case OpKind::kLinear:
        Demand(op_.num_weights >= 1 && Weight(0).cols == op_.inputs[0].cols && Weight(0).rows == Output(0).cols &&
                   Output(0).rows == RowsOf(op_.inputs[0]), "weight differs from operands");
        Demand(op_.num_weights == 1 || Weight(1).rows == Weight(0).rows, "bias differs from weight");
        Demand(op_.num_inputs == 1 || RowsOf(op_.inputs[1]) == RowsOf(op_.inputs[0]), "shrunk rows differ");
        break;
      case OpKind::kShrink:
        Demand(Output(0).rows == RowsOf(op_.inputs[0]) && Output(0).cols % lora::kPanel == 0, "operands are wrong");
        break;
      case OpKind::kRope:
        CheckLikeInput(0);
        Demand(RowsOf(op_.inputs[0]) == Rows::kTokens && op_.num_weights == 1 && op_.head_dim > 0, "operands are wrong");
        Demand(op_.inputs[0].cols % op_.head_dim == 0 && op_.rotary_dim <= op_.head_dim &&
                   op_.rotary_dim == 2 * Weight(0).rows, "rotary_dim differs from its table");
        break;
      case OpKind::kAttention:
      case OpKind::kSelfAttention:
        CheckAttention();
        break;
      case OpKind::kAct:
        CheckLikeInput(0);
        Demand(op_.act >= ActKind::kSilu && op_.act <= ActKind::kTanh, "activation is unknown");
        break;
      case OpKind::kSelect:
      case OpKind::kPool:
        Demand(RowsOf(op_.inputs[0]) == Rows::kTokens && Output(0).rows == Rows::kSampled &&
                   Output(0).cols == op_.inputs[0].cols, "operands are wrong");
        break;
      case OpKind::kCount:
        break;
    }
  }

  const Plan& plan_;
  const PlanOp& op_;
  const size_t index_;
};

void CheckWeight(const PlanWeight& weight, std::span<const TriposWeight> table, size_t index) {
  const bool has_parts = weight.first_part >= 0 && weight.num_parts > 0 &&
                         static_cast<size_t>(weight.first_part) + static_cast<size_t>(weight.num_parts) <= table.size();
  if (!has_parts || weight.rows <= 0 || weight.cols <= 0) throw Error(Format("weight %zu of the plan has no parts", index));
  int64_t num_values = 0;
  for (const TriposWeight& part : table.subspan(static_cast<size_t>(weight.first_part), static_cast<size_t>(weight.num_parts))) {
    num_values += part.rows * part.cols;
  }
  if (num_values != int64_t{weight.rows} * weight.cols) {
    throw Error(Format("weight %s: its checkpoint tensors hold %lld values, the plan wants %d x %d",
                       table[static_cast<size_t>(weight.first_part)].name, static_cast<long long>(num_values), weight.rows,
                       weight.cols));
  }
}

}  // namespace

Plan ReadPlan(const void* bytes, size_t num_bytes, std::span<const TriposWeight> table) {
  const uint8_t* at = static_cast<const uint8_t*>(bytes);
  const uint8_t* end = at + num_bytes;
  Plan plan;
  plan.header = Take<PlanHeader>(at, end, 1)[0];
  const PlanHeader& h = plan.header;
  if (h.magic != kPlanMagic || h.abi != TRIPOS_ABI) throw Error("the plan was written for another version of this library");
  plan.tensors = Take<PlanTensor>(at, end, h.num_tensors);
  plan.ops = Take<PlanOp>(at, end, h.num_ops);
  plan.weights = Take<PlanWeight>(at, end, h.num_weights);
  Require(h.num_layers >= 0 && h.num_kv_heads > 0 && h.head_dim > 0 && h.vocab_size > 0, "the plan's header is wrong");
  Require(h.output >= 0 && h.output < h.num_tensors, "the plan's output is not a tensor");
  for (const PlanTensor& tensor : plan.tensors) Require(tensor.cols > 0, "the plan has a tensor without columns");
  const PlanTensor& output = plan.tensors[static_cast<size_t>(h.output)];
  Require(output.rows == Rows::kSampled && output.cols == h.vocab_size, "the plan's output is not [S, vocab_size]");
  for (size_t i = 0; i < plan.weights.size(); ++i) CheckWeight(plan.weights[i], table, i);
  for (size_t i = 0; i < plan.ops.size(); ++i) OpChecker(plan, i).Check();
  return plan;
}

}  // namespace tripos
