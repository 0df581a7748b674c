// The ops attention and self_attention.
#include <algorithm>

#include "kernels/plan/lower.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

void CheckHeads(const OpCheck& c) {
  const int64_t heads = c.op.Int("num_heads"), kv_heads = c.op.Int("num_kv_heads"), dim = c.op.Int("head_dim");
  c.Demand(heads > 0 && kv_heads > 0 && dim > 0 && heads % kv_heads == 0, "heads are not a multiple of kv heads");
  c.Demand(c.Cols(0) == heads * dim && c.Cols(1) == kv_heads * dim && c.Cols(2) == kv_heads * dim,
           "columns differ from heads x head_dim");
  c.ReadsTokens();
  c.OutputLikeInput();
}

void CheckAttention(const OpCheck& c) {
  const PlanHeader& h = c.plan.header;
  const int32_t layer = c.op.Int("layer");
  CheckHeads(c);
  c.Demand(c.op.Int("num_kv_heads") == h.num_kv_heads && c.op.Int("head_dim") == h.head_dim, "does not fit the cache");
  c.Demand(layer >= 0 && layer < h.num_layers, "layer is not in the cache");
  c.Demand(c.op.Int("window") >= 0, "window is negative");
}

void LowerAttention(Lowering& to, const PlanOp& op) {
  const AttentionShape shape{.layer = op.Int("layer"), .num_heads = op.Int("num_heads"),
                             .num_kv_heads = op.Int("num_kv_heads"), .head_dim = op.Int("head_dim"),
                             .window = op.Int("window"), .scale = op.Float("scale"), .softcap = op.Float("softcap")};
  Require(to.out.queries_per_tile == 0 || to.out.queries_per_tile == shape.queries_per_tile(),
          "attention layers with different numbers of heads in one plan are not supported");
  to.out.queries_per_tile = shape.queries_per_tile();
  ++to.out.layers_of_window[shape.window];
  to.NameKernel(op, to.kernels.AttendOf(to.kv_type).isa());

  const int cache = to.NewBuffer(Rows::kTokens, 0);  // stands for this layer's cache in the placing of barriers
  WriteKvPhase& write = to.EmitRows<WriteKvPhase>({to.View(op.inputs[1]), to.View(op.inputs[2])}, {}, Rows::kTokens);
  write.layer = shape.layer;
  write.is_only_written_late = write.is_idle_single = shape.writes_only();
  write.writes.push_back(cache);
  const Operand q = to.View(op.inputs[0]), out = to.Whole(op.outputs[0]);
  std::vector<int> reads{q.buffer, cache};
  if (shape.writes_only()) reads.insert(reads.end(), write.reads.begin(), write.reads.end());
  for (const bool is_combine : {false, true}) {
    auto phase = is_combine ? std::make_unique<CombinePhase>(to.kernels) : std::make_unique<AttentionPhase>(to.kernels);
    phase->shape = shape;
    phase->q = q;
    phase->k = write.in[0];
    phase->v = write.in[1];
    phase->out = out;
    if (is_combine) {
      to.Emit(std::move(phase), Rows::kTokens, {q.buffer, to.partials_buffer}, {out.buffer});
    } else {
      to.Emit(std::move(phase), Rows::kTokens, reads, {out.buffer, to.partials_buffer});
    }
  }
}

const KnownOp kAttention({"attention", "q k v", "", "y",
                          {{"layer", "int"}, {"num_heads", "int"}, {"num_kv_heads", "int"}, {"head_dim", "int"},
                           {"scale", "float"}, {"window", "int"}, {"softcap", "float"}},
                          CheckAttention, LowerAttention});

// Threads take one sequence and kv head at a time.
class SelfAttentionPhase : public Phase {
 public:
  explicit SelfAttentionPhase(const Kernels& kernels) : kernels_(kernels) {}

  void Run(const StepState& state, int thread) const override {
    const int64_t num_units = int64_t{state.step->num_seqs} * num_kv_heads;
    SelfAttentionArgs args = shape;
    std::atomic<int64_t>& next = state.Counter(counter);
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < num_units;) {
      const int64_t seq = unit / num_kv_heads, column = unit % num_kv_heads * args.head_dim;
      const int32_t first = state.step->query_start[seq];
      args.num_tokens = state.step->query_start[seq + 1] - first;
      args.q = q.Row(state, first) + column * args.num_heads;
      args.k = k.Row(state, first) + column;
      args.v = v.Row(state, first) + column;
      args.out = out.Row(state, first) + column * args.num_heads;
      kernels_.self_attend(args, state.scratch[static_cast<size_t>(thread)]);
    }
  }
  std::vector<Operand*> Operands() override { return {&q, &k, &v, &out}; }
  std::string Name() const override { return "self_attention"; }

  Operand q, k, v, out;
  int num_kv_heads = 0;
  SelfAttentionArgs shape{};  // of a kv head

 private:
  const Kernels& kernels_;
};

void CheckSelfAttention(const OpCheck& c) {
  CheckHeads(c);
  c.Demand(c.op.Int("left") >= -1 && c.op.Int("right") >= -1, "a window is negative");
}

void LowerSelfAttention(Lowering& to, const PlanOp& op) {
  to.NameKernel(op, to.kernels.self_attend.isa());
  auto phase = std::make_unique<SelfAttentionPhase>(to.kernels);
  phase->q = to.View(op.inputs[0]);
  phase->k = to.View(op.inputs[1]);
  phase->v = to.View(op.inputs[2]);
  phase->out = to.Whole(op.outputs[0]);
  phase->num_kv_heads = op.Int("num_kv_heads");
  SelfAttentionArgs& shape = phase->shape;
  shape.q_stride = phase->q.stride / sizeof(float);
  shape.k_stride = phase->k.stride / sizeof(float);
  shape.v_stride = phase->v.stride / sizeof(float);
  shape.out_stride = phase->out.stride / sizeof(float);
  shape.num_heads = op.Int("num_heads") / phase->num_kv_heads;
  shape.head_dim = op.Int("head_dim");
  shape.left = op.Int("left");
  shape.right = op.Int("right");
  shape.scale = op.Float("scale");
  to.out.self_attention_dim = std::max(to.out.self_attention_dim, shape.head_dim);
  const std::vector<int> reads{phase->q.buffer, phase->k.buffer, phase->v.buffer}, writes{phase->out.buffer};
  to.Emit(std::move(phase), Rows::kTokens, reads, writes);
}

const KnownOp kSelfAttention({"self_attention", "q k v", "", "y",
                              {{"num_heads", "int"}, {"num_kv_heads", "int"}, {"head_dim", "int"}, {"scale", "float"},
                               {"left", "int"}, {"right", "int"}},
                              CheckSelfAttention, LowerSelfAttention});

}  // namespace
}  // namespace tripos
