#include "kernels/plan/op_table.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/util/error.h"

namespace tripos {
namespace {

std::vector<OpRow>& Registry() {
  static std::vector<OpRow> rows;
  return rows;
}

}  // namespace

KnownOp::KnownOp(OpRow row) {
  const auto is_before = [](const OpRow& a, const OpRow& b) { return std::strcmp(a.name, b.name) < 0; };
  std::vector<OpRow>& rows = Registry();
  rows.insert(std::upper_bound(rows.begin(), rows.end(), row, is_before), std::move(row));
}

std::span<const OpRow> AllOps() { return Registry(); }

std::string PrintOps() {
  std::string text;
  for (const OpRow& row : AllOps()) {
    text += Format("%s(%s; %s) -> %s:", row.name, row.inputs, row.weights, row.outputs);
    for (const AttrSpec& attr : row.attrs) {
      std::string values;
      for (const auto& [name, value] : attr.values) values += (values.empty() ? "" : "|") + std::string(name);
      text += std::string(" ") + attr.name + "=" + attr.type + values;
    }
    text += "\n";
  }
  return text;
}

bool PlanOp::has_matrix() const { return std::string_view(row->weights).starts_with("matrix"); }

// Attributes were checked: each of the row is there, in its place.
int32_t PlanOp::Int(std::string_view attr) const {
  for (size_t i = 0; i < row->attrs.size(); ++i) {
    const AttrSpec& spec = row->attrs[i];
    const int32_t value = attrs[i].value;
    if (attr != spec.name) continue;
    return spec.values.empty() ? value : spec.values[static_cast<size_t>(value)].second;
  }
  throw Error(Format("op %s has no attribute %s. This is a bug in Tripos", row->name, std::string(attr).c_str()));
}

float PlanOp::Float(std::string_view attr) const { return std::bit_cast<float>(Int(attr)); }

void OpCheck::Demand(bool holds, const char* what) const {
  if (!holds) throw Error(Format("op %zu of the plan (%s): %s", index, op.row->name, what));
}

int32_t OpCheck::VectorSize(size_t i) const {
  Demand(Weight(i).cols == 1, "weight is not a vector");
  return Weight(i).rows;
}

void OpCheck::OutputLikeInput(size_t output) const {
  Demand(Output(output).cols == Cols() && Output(output).rows == RowsOf(), "output is not shaped like its input");
}

void OpCheck::InputsAlike() const {
  for (size_t i = 1; i < op.inputs.size(); ++i) Demand(Cols(i) == Cols() && RowsOf(i) == RowsOf(), "inputs differ");
}

void OpCheck::ReadsTokens() const {
  for (size_t i = 0; i < op.inputs.size(); ++i) Demand(RowsOf(i) == Rows::kTokens, "an input has no row per token");
}

}  // namespace tripos
