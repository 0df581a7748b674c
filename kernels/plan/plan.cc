#include "kernels/plan/plan.h"

#include <algorithm>

#include "kernels/plan/op_table.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

constexpr int32_t kMaxCols = 1 << 28;

bool InRange(int32_t i, size_t size) { return i >= 0 && static_cast<size_t>(i) < size; }

class Reader {
 public:
  Reader(const void* bytes, size_t size) : at_(static_cast<const uint8_t*>(bytes)), end_(at_ + size) {}

  template <typename T>
  std::span<const T> Take(int32_t count) {
    if (count < 0 || static_cast<size_t>(end_ - at_) / sizeof(T) < static_cast<size_t>(count)) {
      throw Error("the plan's bytes end too early");
    }
    std::span<const T> span(reinterpret_cast<const T*>(at_), static_cast<size_t>(count));
    at_ += span.size_bytes();
    return span;
  }

  PlanOp TakeOp() {
    const PlanOpHeader& header = Take<PlanOpHeader>(1)[0];
    PlanOp op;
    Require(InRange(header.kind, AllOps().size()), "the plan has an unknown op");
    op.row = &AllOps()[static_cast<size_t>(header.kind)];
    op.inputs = Take<PlanView>(header.num_inputs);
    op.outputs = Take<int32_t>(header.num_outputs);
    op.weights = Take<int32_t>(header.num_weights);
    op.attrs = Take<PlanAttr>(header.num_attrs);
    return op;
  }

 private:
  const uint8_t* at_;
  const uint8_t* const end_;
};

// Whether `count` operands are as many as the row names.
bool Takes(std::string_view names, size_t count) {
  const auto num = [&](char c) { return static_cast<size_t>(std::count(names.begin(), names.end(), c)); };
  const size_t most = names.empty() ? 0 : num(' ') + 1;
  return count <= most && count + num('?') >= most;
}

void CheckAttrs(const OpCheck& check) {
  const std::vector<AttrSpec>& specs = check.op.row->attrs;
  check.Demand(check.op.attrs.size() == specs.size(), "wrong number of attributes");
  for (size_t i = 0; i < specs.size(); ++i) {
    const PlanAttr& attr = check.op.attrs[i];
    check.Demand(attr.tag == static_cast<int32_t>(i), "attributes are not those of its row");
    const bool is_known = specs[i].values.empty() || InRange(attr.value, specs[i].values.size());
    if (!is_known) check.Demand(false, Format("attribute %s has no such value", specs[i].name).c_str());
  }
}

void CheckOp(const OpCheck& check) {
  const PlanOp& op = check.op;
  check.Demand(Takes(op.row->inputs, op.inputs.size()), "wrong number of inputs");
  check.Demand(Takes(op.row->outputs, op.outputs.size()), "wrong number of outputs");
  check.Demand(Takes(op.row->weights, op.weights.size()), "wrong number of weights");
  for (const PlanView& view : op.inputs) {
    check.Demand(InRange(view.tensor, check.plan.tensors.size()), "input is not a tensor");
    const int64_t cols = check.plan.tensors[static_cast<size_t>(view.tensor)].cols;
    const bool is_inside = view.offset >= 0 && view.cols > 0 && int64_t{view.offset} + view.cols <= cols;
    check.Demand(is_inside, "input leaves its tensor");
  }
  for (const int32_t i : op.outputs) check.Demand(InRange(i, check.plan.tensors.size()), "output is not a tensor");
  for (const int32_t i : op.weights) check.Demand(InRange(i, check.plan.weights.size()), "weight is unknown");
  CheckAttrs(check);
  op.row->check(check);
}

void CheckWeight(const PlanWeight& weight, std::span<const TriposWeight> table, size_t index) {
  const bool has_parts = weight.first_part >= 0 && weight.num_parts > 0 &&
                         int64_t{weight.first_part} + weight.num_parts <= static_cast<int64_t>(table.size());
  if (!has_parts || weight.rows <= 0 || weight.cols <= 0) {
    throw Error(Format("weight %zu of the plan has no parts", index));
  }
  const auto parts = table.subspan(static_cast<size_t>(weight.first_part), static_cast<size_t>(weight.num_parts));
  int64_t num_values = 0;
  for (const TriposWeight& part : parts) num_values += part.rows * part.cols;
  if (num_values != int64_t{weight.rows} * weight.cols) {
    throw Error(Format("weight %s: its checkpoint tensors hold %lld values, the plan wants %d x %d", parts[0].name,
                       static_cast<long long>(num_values), weight.rows, weight.cols));
  }
}

}  // namespace

Plan ReadPlan(const void* bytes, size_t num_bytes, std::span<const TriposWeight> table) {
  Reader reader(bytes, num_bytes);
  Plan plan;
  plan.header = reader.Take<PlanHeader>(1)[0];
  const PlanHeader& h = plan.header;
  Require(h.magic == kPlanMagic && h.abi == TRIPOS_ABI, "the plan was written for another version of this library");
  plan.tensors = reader.Take<PlanTensor>(h.num_tensors);
  plan.weights = reader.Take<PlanWeight>(h.num_weights);
  for (int32_t i = 0; i < h.num_ops; ++i) plan.ops.push_back(reader.TakeOp());
  Require(h.num_layers >= 0 && h.num_kv_heads > 0 && h.head_dim > 0 && h.vocab_size > 0, "the plan's header is wrong");
  Require(InRange(h.output, plan.tensors.size()), "the plan's output is not a tensor");
  for (const PlanTensor& tensor : plan.tensors) {
    const bool has_rows = tensor.rows == Rows::kTokens || tensor.rows == Rows::kSampled;
    Require(has_rows && tensor.cols > 0 && tensor.cols <= kMaxCols, "the plan has a tensor of no known shape");
  }
  const PlanTensor& output = plan.tensors[static_cast<size_t>(h.output)];
  Require(output.rows == Rows::kSampled && output.cols == h.vocab_size, "the plan's output is not [S, vocab_size]");
  for (size_t i = 0; i < plan.weights.size(); ++i) CheckWeight(plan.weights[i], table, i);
  std::vector<bool> is_written(plan.tensors.size());  // once, and before it is read: what shares memory relies on it
  for (size_t i = 0; i < plan.ops.size(); ++i) {
    const OpCheck check(plan, i);
    CheckOp(check);
    for (const PlanView& view : check.op.inputs) {
      check.Demand(is_written[static_cast<size_t>(view.tensor)], "input is not written before");
    }
    for (const int32_t output_tensor : check.op.outputs) {
      check.Demand(!is_written[static_cast<size_t>(output_tensor)], "output is written before");
      is_written[static_cast<size_t>(output_tensor)] = true;
    }
  }
  Require(is_written[static_cast<size_t>(h.output)], "the plan's output is not written");
  return plan;
}

}  // namespace tripos
