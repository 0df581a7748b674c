// The ops linear and shrink.
#include "kernels/plan/lower.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

using linear::Epilogue;

bool Adds(const PlanOp& op) { return op.Enum<Epilogue>("epilogue") == Epilogue::kAdd; }

// nullptr: the linear carries no adapters.
const PlanView* ShrunkOf(const PlanOp& op) {
  return op.inputs.size() == (Adds(op) ? 3u : 2u) ? &op.inputs.back() : nullptr;
}

// h = scale · A x of every row with an adapter: tasks of a chunk of rows and a panel of ranks.
class ShrinkPhase : public Phase {
 public:
  explicit ShrinkPhase(const Kernels& kernels) : kernels_(kernels) {}

  bool IsIdle(const StepState& state) const override {
    return state.lora == nullptr || !state.lora->Of(rows).HasSite(site);
  }
  void Run(const StepState& state, int) const override {
    const std::vector<LoraChunk>& chunks = state.lora->Of(rows).chunks;
    const int64_t num_panels = out.cols / lora::kPanel, num_tasks = static_cast<int64_t>(chunks.size()) * num_panels;
    std::atomic<int64_t>& next = state.Counter(counter);
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < num_tasks;) {
      const LoraChunk& chunk = chunks[static_cast<size_t>(task / num_panels)];
      const int panel = static_cast<int>(task % num_panels);
      if (!chunk.adapter->Has(site) || chunk.adapter->Panel(site, panel).data == nullptr) continue;
      lora::Rows batch;
      batch.count = chunk.count;
      for (int r = 0; r < chunk.count; ++r) {
        batch.in[r] = in.Row(state, chunk.rows[r]);
        batch.out[r] = out.Row(state, chunk.rows[r]) + panel * lora::kPanel;
      }
      kernels_.shrink(chunk.adapter->type(), chunk.adapter->Panel(site, panel), in.cols, batch);
    }
  }
  std::vector<Operand*> Operands() override { return {&in, &out}; }
  std::string Name() const override { return "shrink"; }

  int site = 0;
  Operand in, out;

 private:
  const Kernels& kernels_;
};

void CheckShrink(const OpCheck& c) {
  c.Demand(c.Output().rows == c.RowsOf() && c.Output().cols % lora::kPanel == 0 && c.Weight().cols == c.Cols(),
           "operands are wrong");
}

void LowerShrink(Lowering& to, const PlanOp& op) {
  const int weight = op.weights[0];
  const Operand x = to.View(op.inputs[0]), shrunk = to.Whole(op.outputs[0]);
  const linear::WeightFormat format = to.weights.FormatOf(weight);
  to.Prepared(op.inputs[0], format);  // nothing may come between a shrink and its linear: see Phase::IsIdle
  const int site = static_cast<int>(to.out.lora_sites.size());
  Require(to.out.site_of_weight.emplace(weight, site).second, "two linears with adapters share a weight");
  const PlanWeight& shape = to.weights.ShapeInPlan(weight);
  to.out.lora_sites.push_back({shape.rows, shape.cols, false, shrunk.cols});
  to.NameKernel(op, to.kernels.shrink.isa());
  auto phase = std::make_unique<ShrinkPhase>(to.kernels);
  phase->site = site;
  phase->in = x;
  phase->out = shrunk;
  to.Emit(std::move(phase), x.rows, {x.buffer}, {shrunk.buffer});
}

// The linear writes over it: it is read whole, and by nothing later.
void CheckResidual(const OpCheck& c) {
  const PlanView& residual = c.op.inputs[1];
  const int32_t cols = c.plan.tensors[static_cast<size_t>(residual.tensor)].cols, output = c.plan.header.output;
  c.Demand(residual == PlanView{residual.tensor, 0, cols} && cols == c.Output().cols, "residual is not whole");
  c.Demand(residual.tensor != output && c.op.outputs[0] != output, "the plan's output is written over");
  for (size_t i = c.index + 1; i < c.plan.ops.size(); ++i) {
    for (const PlanView& in : c.plan.ops[i].inputs) c.Demand(in.tensor != residual.tensor, "residual is read later");
  }
}

void CheckLinear(const OpCheck& c) {
  const PlanOp& op = c.op;
  const bool is_glu = op.Enum<Epilogue>("epilogue") >= Epilogue::kGluSilu;
  const int32_t n = c.Weight().rows;
  c.Demand(c.Weight().cols == c.Cols() && n == c.Output().cols * (is_glu ? 2 : 1) && c.Output().rows == c.RowsOf(),
           "weight differs from operands");
  c.Demand(op.weights.size() == 1 || c.VectorSize(1) == n, "bias differs from weight");
  c.Demand(is_glu == op.Bool("interleaved"), "interleaved is what gated pairs are, and nothing else");
  const size_t least = Adds(op) ? 2 : 1;
  c.Demand(op.inputs.size() == least || op.inputs.size() == least + 1, "wrong number of inputs");
  for (size_t i = 1; i < op.inputs.size(); ++i) c.Demand(c.RowsOf(i) == c.RowsOf(), "rows of inputs differ");
  if (Adds(op)) CheckResidual(c);
  const PlanView* shrunk = ShrunkOf(op);
  if (shrunk == nullptr) return;
  const PlanOp& before = c.plan.ops[c.index == 0 ? 0 : c.index - 1];
  c.Demand(before.row->lower == LowerShrink && before.outputs[0] == shrunk->tensor, "its last input is no shrink");
  c.Demand(before.inputs[0] == op.inputs[0] && before.weights[0] == op.weights[0], "shrink of another linear");
}

void LowerLinear(Lowering& to, const PlanOp& op) {
  auto phase = std::make_unique<LinearPhase>();
  phase->kernels = &to.kernels;
  phase->matrix = to.weights.Matrix(op.weights[0], op.Bool("interleaved"));
  const linear::WeightFormat format = phase->matrix.format;
  to.out.kernels[std::string("linear.") + FormatName(format)] = to.kernels.LinearOf(format).isa();
  if (op.weights.size() > 1) phase->bias = to.weights.Vector(op.weights[1]);
  phase->in = to.Prepared(op.inputs[0], format);
  phase->epilogue = op.Enum<Epilogue>("epilogue");
  if (Adds(op)) to.WriteOver(op.outputs[0], op.inputs[1].tensor);
  phase->out = to.Whole(op.outputs[0]);
  std::vector<int> reads{phase->in.buffer};
  if (const PlanView* shrunk = ShrunkOf(op); shrunk != nullptr) {
    const int site = to.out.site_of_weight.at(op.weights[0]);
    to.out.lora_sites[static_cast<size_t>(site)].is_interleaved = phase->matrix.is_interleaved;
    phase->lora = {&to.kernels, site, to.View(*shrunk)};
    reads.push_back(phase->lora.shrunk.buffer);
  }
  const Rows rows = phase->out.rows;
  const std::vector<int> writes{phase->out.buffer};
  to.Emit(std::move(phase), rows, reads, writes);
}

const KnownOp kShrink({"shrink", "x", "matrix", "y", {{"rank", "int"}}, CheckShrink, LowerShrink});
const KnownOp kLinear({"linear", "x residual? shrunk?", "matrix b?", "y",
                       {EnumAttr<Epilogue>("epilogue",
                                           {{"store", Epilogue::kStore}, {"add", Epilogue::kAdd},
                                            {"gelu", Epilogue::kGelu}, {"gelu_tanh", Epilogue::kGeluTanh},
                                            {"glu_silu", Epilogue::kGluSilu}, {"glu_gelu", Epilogue::kGluGelu},
                                            {"glu_gelu_tanh", Epilogue::kGluGeluTanh}}),
                        {"interleaved", "bool"}},
                       CheckLinear, LowerLinear});

}  // namespace
}  // namespace tripos
