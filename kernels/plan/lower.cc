#include "kernels/plan/lower.h"

#include "kernels/plan/barriers.h"
#include "kernels/util/error.h"

namespace tripos {

Lowering::Lowering(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool)
    : kernels(options.kernels), kv_type(options.kv_type),
      weights(plan, table, options.weights, options.progress, pool), plan_(plan) {}

LoweredPlan Lowering::Run() {
  out.header = plan_.header;
  for (const PlanTensor& t : plan_.tensors) NewBuffer(t.rows, static_cast<size_t>(t.cols) * sizeof(float));
  partials_buffer = NewBuffer(Rows::kTokens, 0);
  for (const PlanOp& op : plan_.ops) op.row->lower(*this, op);
  out.weights = weights.Finish();
  const int output = plan_.header.output;
  MarkRepeated(out.phases, out.buffers, output);
  PlaceBarriers(out.phases, out.buffers, output);
  out.phases = JoinRowPhases(std::move(out.phases));
  LinkLinears();
  MarkLocal(out.phases, out.buffers, output);
  out.arena = PlaceBuffers(out.buffers);
  for (auto& phase : out.phases) phase->Bind(out.buffers);
  out.logits = Whole(output);
  out.logits.buffer_offset = out.buffers[static_cast<size_t>(output)].offset;
  return std::move(out);
}

void Lowering::LinkLinears() {
  LinearPhase* last = nullptr;
  for (const auto& phase : out.phases) {
    auto* linear = dynamic_cast<LinearPhase*>(phase.get());
    if (linear == nullptr) continue;
    if (last != nullptr) last->following = linear;
    last = linear;
  }
}

int Lowering::NewBuffer(Rows rows, size_t row_bytes) {
  out.buffers.push_back({rows, RoundUp64(row_bytes)});
  return static_cast<int>(out.buffers.size()) - 1;
}

Operand Lowering::View(const PlanView& view) const {
  const PlanTensor& tensor = plan_.tensors[static_cast<size_t>(view.tensor)];
  return {.buffer = BufferOf(view.tensor), .rows = tensor.rows, .cols = view.cols,
          .stride = RoundUp64(static_cast<size_t>(tensor.cols) * sizeof(float)),
          .column_bytes = static_cast<size_t>(view.offset) * sizeof(float)};
}

void Lowering::EachRow(const PlanOp& op, EachRowPhase::Each each) {
  std::vector<Operand> in, outputs;
  for (const PlanView& view : op.inputs) in.push_back(View(view));
  for (const int32_t tensor : op.outputs) outputs.push_back(Whole(tensor));
  const Rows rows = outputs[0].rows;
  EmitRows<EachRowPhase>(std::move(in), std::move(outputs), rows, op.row->name, std::move(each));
}

int Lowering::BufferOf(int tensor) const {
  const auto alias = alias_.find(tensor);
  return alias == alias_.end() ? tensor : BufferOf(alias->second);
}

Operand Lowering::Prepared(const PlanView& view, linear::WeightFormat format) {
  const Operand x = View(view);
  const linear::RowFormat row_format = kernels.LinearOf(format).row_format();
  const size_t row_bytes = linear::PreparedRowBytes(row_format, view.cols);
  if (row_bytes == 0) return x;
  const auto key = std::make_tuple(view.tensor, view.offset, row_format);
  const auto known = prepared_.find(key);
  if (known != prepared_.end() && known->second.cols == view.cols) return known->second;
  const Operand rows{.buffer = NewBuffer(x.rows, row_bytes), .rows = x.rows, .cols = view.cols, .stride = row_bytes};
  EmitRows<EachRowPhase>({x}, {rows}, x.rows, "prepare", [prepare = &kernels.PrepareOf(row_format)](const OneRow& r) {
    (*prepare)(r.In(0), 0, 1, r.Cols(), r.Out());
  });
  prepared_[key] = rows;
  return rows;
}

}  // namespace tripos
