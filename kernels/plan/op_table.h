// The table of ops: a row for each, made known beside the code that lowers it. src/tripos/plan/ops.py is the
// definition; Python compares the two by name when it loads this library, so that no number here has a twin elsewhere.
#ifndef TRIPOS_PLAN_OP_TABLE_H_
#define TRIPOS_PLAN_OP_TABLE_H_

#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/plan/plan.h"

namespace tripos {

class Lowering;
class OpCheck;

struct AttrSpec {
  const char* name;
  const char* type = "";  // int, float, bool; of an enum its values
  std::vector<std::pair<const char*, int32_t>> values{};
};

template <typename E>
AttrSpec EnumAttr(const char* name, std::initializer_list<std::pair<const char*, E>> values) {
  AttrSpec attr{name};
  for (const auto& [value_name, value] : values) attr.values.emplace_back(value_name, static_cast<int32_t>(value));
  return attr;
}

struct OpRow {
  const char* name;
  // Operands by name, in order; one that may be missing ends in "?".
  const char* inputs;
  const char* weights;
  const char* outputs;
  std::vector<AttrSpec> attrs;
  void (*check)(const OpCheck& op);  // enough that no kernel can leave its operands
  void (*lower)(Lowering& to, const PlanOp& op);
};

// Makes an op known: a constant beside its row's functions.
struct KnownOp {
  explicit KnownOp(OpRow row);
};

std::span<const OpRow> AllOps();  // by name
std::string PrintOps();           // `name(inputs; weights) -> outputs: attr=type ...`, a line for each

// An op and the plan around it, for the check of its row. Operands exist and attributes have values of their type.
class OpCheck {
 public:
  OpCheck(const Plan& whole, size_t at) : plan(whole), op(whole.ops[at]), index(at) {}

  void Demand(bool holds, const char* what) const;  // throws Error
  const PlanTensor& Output(size_t i = 0) const { return plan.tensors[static_cast<size_t>(op.outputs[i])]; }
  const PlanWeight& Weight(size_t i = 0) const { return plan.weights[static_cast<size_t>(op.weights[i])]; }
  int32_t VectorSize(size_t i = 0) const;  // of a weight that must be one
  int32_t Cols(size_t input = 0) const { return op.inputs[input].cols; }
  Rows RowsOf(size_t input = 0) const { return plan.tensors[static_cast<size_t>(op.inputs[input].tensor)].rows; }
  void OutputLikeInput(size_t output = 0) const;
  void InputsAlike() const;
  void ReadsTokens() const;  // all inputs have a row for each token

  const Plan& plan;
  const PlanOp& op;
  const size_t index;
};

}  // namespace tripos

#endif  // TRIPOS_PLAN_OP_TABLE_H_
