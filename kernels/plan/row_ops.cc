// The ops whose rows are computed one by one.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/plan/lower.h"

namespace tripos {
namespace {

void CheckEmbed(const OpCheck& c) {
  const int32_t offset = c.op.Int("row_offset");
  c.Demand(c.Weight().cols == c.Output().cols && c.Output().rows == Rows::kTokens, "table differs");
  c.Demand(offset >= 0 && offset < c.Weight().rows, "row_offset leaves the table");
}

void LowerEmbed(Lowering& to, const PlanOp& op) {
  const Source source = op.Enum<Source>("source");
  const int row_offset = op.Int("row_offset");
  const Table table = to.weights.TableOf(op.weights[0]);
  int64_t* const limits[] = {&to.out.num_embed_rows, &to.out.num_positions, &to.out.num_token_types};
  int64_t& known = *limits[static_cast<int>(source)];
  known = known == 0 ? table.rows - row_offset : std::min(known, table.rows - row_offset);
  to.EachRow(op, [=, scale = op.Float("scale"), k = &to.kernels](const OneRow& r) {
    const TriposStep& step = *r.state.step;
    const int32_t* const arrays[] = {step.token_ids, step.positions, step.token_types};
    const int32_t* ids = arrays[static_cast<int>(source)];
    table.Row((ids == nullptr ? 0 : int64_t{ids[r.row]}) + row_offset, r.Out());
    if (scale != 1.0f) k->scale(r.Out(), scale, r.Cols());
  });
}

const KnownOp kEmbed({"embed", "", "table", "y",
                      {EnumAttr<Source>("source", {{"token_ids", Source::kTokenIds},
                                                   {"positions", Source::kPositions},
                                                   {"token_types", Source::kTokenTypes}}),
                       {"row_offset", "int"}, {"scale", "float"}},
                      CheckEmbed, LowerEmbed});

void CheckNorm(const OpCheck& c) {
  c.InputsAlike();
  for (size_t i = 0; i < c.op.outputs.size(); ++i) c.OutputLikeInput(i);
  c.Demand(c.Cols() % c.VectorSize() == 0, "weight does not divide the columns");
  c.Demand(c.op.weights.size() == 1 || c.VectorSize(1) == c.VectorSize(), "bias differs from weight");
}

void LowerNorm(Lowering& to, const PlanOp& op) {
  std::vector<float> weight = to.weights.Vector(op.weights[0]), bias;
  if (op.weights.size() > 1) bias = to.weights.Vector(op.weights[1]);
  const bool adds = op.inputs.size() == 2;
  to.NameKernel(op, to.kernels.norm.isa());
  NormArgs shape{};
  shape.cols = op.inputs[0].cols;
  shape.group = static_cast<int>(weight.size());
  shape.kind = op.Enum<NormKind>("kind");
  shape.eps = op.Float("eps");
  to.EachRow(op, [=, k = &to.kernels](const OneRow& r) {
    NormArgs args = shape;
    args.weight = weight.data();
    args.bias = bias.empty() ? nullptr : bias.data();
    if (adds) k->add(r.In(0), r.In(1), r.Out(0), args.cols);
    k->norm(args, adds ? r.Out(0) : r.In(0), r.Out(adds ? 1 : 0));
  });
}

AttrSpec Norms() { return EnumAttr<NormKind>("kind", {{"rms", NormKind::kRms}, {"layer", NormKind::kLayer}}); }

const KnownOp kNorm({"norm", "x", "w b?", "y", {Norms(), {"eps", "float"}}, CheckNorm, LowerNorm});
const KnownOp kAddNorm({"add_norm", "a b", "w b?", "sum y", {Norms(), {"eps", "float"}}, CheckNorm, LowerNorm});

void CheckRopeTable(const OpCheck& c) {
  const bool fits = c.Output().rows == Rows::kTokens && c.Output().cols == 2 * c.VectorSize();
  c.Demand(fits, "table differs from frequencies");
}

void LowerRopeTable(Lowering& to, const PlanOp& op) {
  to.EachRow(op, [inv_freq = to.weights.Vector(op.weights[0]), scale = op.Float("scale")](const OneRow& r) {
    const size_t half = inv_freq.size();
    const float position = static_cast<float>(r.state.step->positions[r.row]);
    float* cos = r.Out();
    for (size_t i = 0; i < half; ++i) {
      const float angle = position * inv_freq[i];
      cos[i] = std::cos(angle) * scale;
      cos[half + i] = std::sin(angle) * scale;
    }
  });
}

const KnownOp kRopeTable({"rope_table", "", "inv_freq", "y", {{"scale", "float"}}, CheckRopeTable, LowerRopeTable});

void CheckRope(const OpCheck& c) {
  const int32_t head_dim = c.op.Int("head_dim"), rotary_dim = c.Cols(1);
  c.ReadsTokens();
  c.OutputLikeInput();
  c.Demand(head_dim > 0 && c.Cols() % head_dim == 0, "head_dim does not divide the columns");
  c.Demand(rotary_dim <= head_dim && rotary_dim % 2 == 0, "table does not fit a head");
}

void LowerRope(Lowering& to, const PlanOp& op) {
  const int head_dim = op.Int("head_dim"), half = op.inputs[1].cols / 2;
  to.NameKernel(op, to.kernels.rope.isa());
  to.EachRow(op, [=, k = &to.kernels](const OneRow& r) {
    k->rope(r.In(0), r.Out(), r.Cols(), head_dim, half, r.In(1), r.In(1) + half);
  });
}

const KnownOp kRope({"rope", "x table", "", "y", {{"head_dim", "int"}}, CheckRope, LowerRope});

// Of glu, act and add.
void CheckElementwise(const OpCheck& c) {
  c.InputsAlike();
  c.OutputLikeInput();
}

void LowerGlu(Lowering& to, const PlanOp& op) {
  to.NameKernel(op, to.kernels.glu.isa());
  to.EachRow(op, [act = op.Enum<ActKind>("act"), k = &to.kernels](const OneRow& r) {
    k->glu(act, r.In(0), r.In(1), r.Out(), r.Cols());
  });
}

void LowerAct(Lowering& to, const PlanOp& op) {
  to.NameKernel(op, to.kernels.act.isa());
  to.EachRow(op, [act = op.Enum<ActKind>("act"), k = &to.kernels](const OneRow& r) {
    k->act(act, r.In(0), r.Out(), r.Cols());
  });
}

void LowerAdd(Lowering& to, const PlanOp& op) {
  to.NameKernel(op, to.kernels.add.isa());
  to.EachRow(op, [k = &to.kernels](const OneRow& r) { k->add(r.In(0), r.In(1), r.Out(), r.Cols()); });
}

AttrSpec Activations() {
  return EnumAttr<ActKind>("act", {{"silu", ActKind::kSilu}, {"gelu", ActKind::kGelu},
                                   {"gelu_tanh", ActKind::kGeluTanh}, {"relu", ActKind::kRelu},
                                   {"tanh", ActKind::kTanh}});
}

const KnownOp kGlu({"glu", "gate up", "", "y", {Activations()}, CheckElementwise, LowerGlu});
const KnownOp kAct({"act", "x", "", "y", {Activations()}, CheckElementwise, LowerAct});
const KnownOp kAdd({"add", "a b", "", "y", {}, CheckElementwise, LowerAdd});

// Of select and pool.
void CheckSampled(const OpCheck& c) {
  c.ReadsTokens();
  c.Demand(c.Output().rows == Rows::kSampled && c.Output().cols == c.Cols(), "operands are wrong");
}

void LowerSelect(Lowering& to, const PlanOp& op) {
  to.EachRow(op, [](const OneRow& r) {
    const float* x = r.In(0, r.state.step->last_rows[r.row]);
    std::memcpy(r.Out(), x, static_cast<size_t>(r.Cols()) * sizeof(float));
  });
}

// Row s: the mean of sequence s.
void LowerPool(Lowering& to, const PlanOp& op) {
  to.out.pools = true;
  to.NameKernel(op, to.kernels.mean.isa());
  to.EachRow(op, [k = &to.kernels](const OneRow& r) {
    const int32_t start = r.state.step->query_start[r.row], end = r.state.step->query_start[r.row + 1];
    k->mean(r.In(0, start), r.phase.in[0].stride / sizeof(float), end - start, r.Cols(), r.Out());
  });
}

const KnownOp kSelect({"select", "x", "", "y", {}, CheckSampled, LowerSelect});
const KnownOp kPool({"pool", "x", "", "y", {}, CheckSampled, LowerPool});

}  // namespace
}  // namespace tripos
