#include "kernels/plan/lower.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <set>
#include <tuple>
#include <utility>

#include "kernels/plan/barriers.h"
#include "kernels/plan/encoder_phases.h"
#include "kernels/util/error.h"

namespace tripos {
namespace {

size_t RoundUp64(size_t n) { return (n + 63) / 64 * 64; }

linear::SourceType SourceTypeOf(const TriposWeight& weight) {
  if (weight.format < TRIPOS_F32 || weight.format >= TRIPOS_NUM_FORMATS) throw Error(Format("weight %s: unknown format", weight.name));
  return static_cast<linear::SourceType>(weight.format);  // both lists are in the order of plan/formats.py
}

linear::WeightFormat FormatFor(const std::string& name, linear::SourceType source) {
  if (name == "auto" || name.empty()) return linear::NativeFormat(source);
  for (int i = 0; i <= static_cast<int>(linear::WeightFormat::kFp8); ++i) {
    if (name == linear::FormatName(static_cast<linear::WeightFormat>(i))) return static_cast<linear::WeightFormat>(i);
  }
  throw Error(Format("weights \"%s\" is unknown: use auto, fp32, bf16, fp16, int8, int4 or fp8", name.c_str()));
}

class Lowering {
 public:
  Lowering(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool)
      : plan_(plan), table_(table), options_(options), pool_(pool), kernels_(options.kernels) {}

  LoweredPlan Run() {
    out_.header = plan_.header;
    for (const PlanTensor& tensor : plan_.tensors) {
      out_.buffers.push_back({tensor.rows, RoundUp64(static_cast<size_t>(tensor.cols) * sizeof(float))});
    }
    partials_buffer_ = NewBuffer(Rows::kTokens, 0);
    CountReads();
    panel_bytes_ = PanelBytes();
    out_.panels = PanelMemory(panel_bytes_);
    for (size_t i = 0; i < plan_.ops.size(); ++i) {
      if (!is_fused_[i]) LowerOp(plan_.ops[i], i);
    }
    const int output = plan_.header.output;
    MarkRepeated(out_.phases, out_.buffers, output);
    PlaceBarriers(out_.phases, out_.buffers, output);
    out_.phases = JoinRowPhases(std::move(out_.phases));
    LinkLinears();
    MarkLocal(out_.phases, out_.buffers, output);
    out_.arena = PlaceBuffers(out_.buffers);
    for (auto& phase : out_.phases) phase->Bind(out_.buffers);
    out_.logits = Whole(output);
    out_.logits.buffer_offset = out_.buffers[static_cast<size_t>(output)].offset;
    return std::move(out_);
  }

 private:
  void LinkLinears() {
    LinearPhase* last = nullptr;
    for (const auto& phase : out_.phases) {
      auto* linear = dynamic_cast<LinearPhase*>(phase.get());
      if (linear == nullptr) continue;
      if (last != nullptr) last->following = linear;
      last = linear;
    }
  }

  int NewBuffer(Rows rows, size_t row_bytes) {
    out_.buffers.push_back({rows, RoundUp64(row_bytes)});
    return static_cast<int>(out_.buffers.size()) - 1;
  }

  Operand View(const PlanView& view) const {
    const PlanTensor& tensor = plan_.tensors[static_cast<size_t>(view.tensor)];
    Operand operand;
    operand.buffer = BufferOf(view.tensor);
    operand.rows = tensor.rows;
    operand.cols = view.cols;
    operand.stride = RoundUp64(static_cast<size_t>(tensor.cols) * sizeof(float));
    operand.column_bytes = static_cast<size_t>(view.offset) * sizeof(float);
    return operand;
  }
  Operand Whole(int tensor) const { return View({tensor, 0, plan_.tensors[static_cast<size_t>(tensor)].cols}); }
  Operand Extra(int buffer, Rows rows, int cols, size_t stride) const {
    Operand operand;
    operand.buffer = buffer;
    operand.rows = rows;
    operand.cols = cols;
    operand.stride = stride;
    return operand;
  }

  int BufferOf(int tensor) const {
    const auto alias = alias_.find(tensor);
    return alias == alias_.end() ? tensor : BufferOf(alias->second);
  }

  template <typename P>
  P& Emit(std::unique_ptr<P> phase, Rows rows, std::vector<int> reads, std::vector<int> writes) {
    phase->rows = rows;
    phase->reads = std::move(reads);
    phase->writes = std::move(writes);
    P& result = *phase;
    out_.phases.push_back(std::move(phase));
    return result;
  }
  template <typename P>
  P& EmitRows(std::vector<Operand> in, std::vector<Operand> out, Rows rows) {
    std::vector<int> reads, writes;
    for (const Operand& operand : in) reads.push_back(operand.buffer);
    for (const Operand& operand : out) writes.push_back(operand.buffer);
    P& phase = Emit(std::make_unique<P>(kernels_), rows, std::move(reads), std::move(writes));
    phase.in = std::move(in);
    phase.out = std::move(out);
    return phase;
  }

  std::span<const TriposWeight> Parts(int weight) const {
    const PlanWeight& w = plan_.weights[static_cast<size_t>(weight)];
    return table_.subspan(static_cast<size_t>(w.first_part), static_cast<size_t>(w.num_parts));
  }

  Table TableOf(int weight) const {
    Table table;
    const PlanWeight& w = plan_.weights[static_cast<size_t>(weight)];
    table.rows = w.rows;
    table.cols = w.cols;
    for (const TriposWeight& part : Parts(weight)) {
      const linear::SourceType type = SourceTypeOf(part);
      const size_t row_bytes = linear::SourceRowBytes(type, w.cols);
      const int64_t rows = part.rows * part.cols / w.cols;
      if (row_bytes == 0 || rows * w.cols != part.rows * part.cols || part.bytes < rows * static_cast<int64_t>(row_bytes)) {
        throw Error(Format("weight %s: %lld bytes do not hold %lld rows of %d values", part.name,
                           static_cast<long long>(part.bytes), static_cast<long long>(rows), w.cols));
      }
      table.parts.push_back({type, static_cast<const uint8_t*>(part.data), rows, row_bytes});
    }
    return table;
  }

  // All values of a vector, float32.
  std::vector<float> Vector(int weight) const {
    std::vector<float> values;
    for (const TriposWeight& part : Parts(weight)) {
      const size_t start = values.size();
      const int64_t count = part.rows * part.cols;
      const linear::SourceType type = SourceTypeOf(part);
      if (part.bytes < static_cast<int64_t>(linear::SourceRowBytes(type, count))) {
        throw Error(Format("weight %s: fewer bytes than its shape needs", part.name));
      }
      values.resize(start + static_cast<size_t>(count));
      linear::DequantizeRow(type, part.data, count, values.data() + start);
    }
    return values;
  }

  // The matrix of a weight in its place in panel memory; its bytes are still to come.
  linear::PackedMatrix ShapeOf(int weight, bool is_interleaved) const {
    const PlanWeight& w = plan_.weights[static_cast<size_t>(weight)];
    const TriposWeight& first = Parts(weight)[0];
    if (first.format == TRIPOS_PANELS) return PanelsOf(w, first);
    linear::PackedMatrix shape;
    shape.format = FormatFor(options_.weights, SourceTypeOf(first));
    shape.is_interleaved = is_interleaved;
    shape.n = w.rows;
    shape.k = w.cols;
    return shape;
  }

  // What all matrices of the plan take together.
  size_t PanelBytes() const {
    std::map<int, size_t> sizes;
    for (size_t i = 0; i < plan_.ops.size(); ++i) {
      if (plan_.ops[i].kind != OpKind::kLinear) continue;
      sizes.emplace(plan_.ops[i].weights[0], ShapeOf(plan_.ops[i].weights[0], GluOf(i) != nullptr).bytes());
    }
    size_t total = 0;
    for (const auto& [weight, bytes] : sizes) total += RoundUp64(bytes);
    return total;
  }

  linear::PackedMatrix Matrix(int weight, bool is_interleaved) {
    const auto known = out_.matrix_of_weight.find(weight);
    if (known != out_.matrix_of_weight.end()) return out_.matrices[known->second];
    linear::PackedMatrix matrix = ShapeOf(weight, is_interleaved);
    if (matrix.is_interleaved && !is_interleaved) {
      throw Error(Format("weight %s: packed interleaved, the plan takes it row by row: pack the model again", Parts(weight)[0].name));
    }
    uint8_t* bytes = out_.panels.Take(RoundUp64(matrix.bytes()));
    if (matrix.data != nullptr) {
      Copy(matrix, bytes);
    } else {
      Pack(matrix, weight, bytes);
    }
    for (const TriposWeight& part : Parts(weight)) {
      if (part.is_mapped != 0) LetPagesGo(part.data, static_cast<size_t>(part.bytes));
    }
    matrix.data = bytes;
    out_.matrices.push_back(matrix);
    out_.matrix_of_weight[weight] = out_.matrices.size() - 1;
    out_.weight_bytes += matrix.bytes();
    const double done = static_cast<double>(out_.weight_bytes) / static_cast<double>(panel_bytes_);
    if (options_.progress != nullptr && options_.progress(done) == 0) throw Error("the load was ended by whoever follows it");
    out_.kernels[std::string("linear.") + FormatName(matrix.format)] = kernels_.LinearOf(matrix.format).isa();
    return matrix;
  }

  void Copy(const linear::PackedMatrix& matrix, uint8_t* bytes) {
    pool_.Run([&](int thread) {
      const Range range = RangeOf(static_cast<int64_t>(matrix.bytes()), thread, pool_.num_threads());
      std::memcpy(bytes + range.first, matrix.data + range.first, static_cast<size_t>(range.last - range.first));
    });
  }

  void Pack(const linear::PackedMatrix& shape, int weight, uint8_t* bytes) {
    std::vector<linear::SourceMatrix> parts;
    for (const Table::Part& part : TableOf(weight).parts) parts.push_back({part.type, part.data, part.rows, shape.k});
    std::atomic<bool> is_packed{true};
    pool_.Run([&](int thread) {
      const Range range = RangeOf(shape.num_panels(), thread, pool_.num_threads());
      if (!linear::Pack(shape, parts, range.first, range.last, bytes)) is_packed = false;
    });
    if (!is_packed) {
      throw Error(Format("a weight of %lld x %lld cannot be packed as %s", static_cast<long long>(shape.n),
                         static_cast<long long>(shape.k), linear::FormatName(shape.format)));
    }
  }

  static linear::PackedMatrix PanelsOf(const PlanWeight& w, const TriposWeight& part) {
    linear::PackedMatrix matrix;
    const int32_t format = part.panel_format & ~kInterleavedPanels;
    matrix.is_interleaved = format != part.panel_format;
    if (format < 0 || format > static_cast<int32_t>(linear::WeightFormat::kInt8Group) || (matrix.is_interleaved && w.rows % 2 != 0)) {
      throw Error(Format("weight %s: panels of kind %d are not known", part.name, part.panel_format));
    }
    matrix.format = static_cast<linear::WeightFormat>(format);
    matrix.n = w.rows;
    matrix.k = w.cols;
    matrix.data = static_cast<const uint8_t*>(part.data);
    if (w.num_parts != 1 || part.bytes != static_cast<int64_t>(matrix.bytes())) {
      throw Error(Format("weight %s: %lld bytes of panels, its shape needs %zu", part.name,
                         static_cast<long long>(part.bytes), matrix.bytes()));
    }
    return matrix;
  }

  // The instruction set of an op's kernel; nullptr: it copies, or is named elsewhere.
  const char* IsaOf(OpKind kind) const {
    switch (kind) {
      case OpKind::kNorm:
      case OpKind::kAddNorm: return kernels_.norm.isa();
      case OpKind::kRope: return kernels_.rope.isa();
      case OpKind::kAttention: return kernels_.AttendOf(options_.kv_type).isa();
      case OpKind::kGlu: return kernels_.glu.isa();
      case OpKind::kAct: return kernels_.act.isa();
      case OpKind::kAdd: return kernels_.add.isa();
      case OpKind::kSelfAttention: return kernels_.self_attend.isa();
      case OpKind::kPool: return kernels_.mean.isa();
      case OpKind::kShrink: return kernels_.shrink.isa();
      default: return nullptr;
    }
  }

  void LowerOp(const PlanOp& op, size_t index) {
    static constexpr const char* kNames[] = {"embed", "norm", "linear", "rope", "attention", "glu", "act", "add", "select", "norm", "self_attention", "pool", "shrink"};
    if (const char* isa = IsaOf(op.kind); isa != nullptr) out_.kernels[kNames[static_cast<int>(op.kind)]] = isa;
    switch (op.kind) {
      case OpKind::kEmbed: return LowerEmbed(op);
      case OpKind::kNorm:
      case OpKind::kAddNorm: return LowerNorm(op, has_sum_.contains(index));
      case OpKind::kLinear: return LowerLinear(op, index);
      case OpKind::kRope: return LowerRope(op);
      case OpKind::kAttention: return LowerAttention(op);
      case OpKind::kGlu: {
        const Operand gate = View(op.inputs[0]);
        EmitRows<GluPhase>({gate, View(op.inputs[1])}, {Whole(op.outputs[0])}, gate.rows).act = op.act;
        return;
      }
      case OpKind::kAct: {
        const Operand x = View(op.inputs[0]);
        EmitRows<GluPhase>({x}, {Whole(op.outputs[0])}, x.rows).act = op.act;
        return;
      }
      case OpKind::kAdd: {
        const Operand a = View(op.inputs[0]);
        EmitRows<AddPhase>({a, View(op.inputs[1])}, {Whole(op.outputs[0])}, a.rows);
        return;
      }
      case OpKind::kSelect:
        EmitRows<SelectPhase>({View(op.inputs[0])}, {Whole(op.outputs[0])}, Rows::kSampled);
        return;
      case OpKind::kPool:
        out_.pools = true;
        EmitRows<PoolPhase>({View(op.inputs[0])}, {Whole(op.outputs[0])}, Rows::kSampled);
        return;
      case OpKind::kSelfAttention: return LowerSelfAttention(op);
      case OpKind::kShrink: return;  // with the linear that reads it
      case OpKind::kCount: return;
    }
  }

  void LowerEmbed(const PlanOp& op) {
    EmbedPhase& phase = EmitRows<EmbedPhase>({}, {Whole(op.outputs[0])}, Rows::kTokens);
    phase.table = TableOf(op.weights[0]);
    phase.source = op.source;
    phase.row_offset = op.row_offset;
    phase.scale = op.scale;
    const int64_t limit = phase.table.rows - op.row_offset;
    if (op.row_offset < 0 || limit <= 0) throw Error("embed: row_offset leaves the table");
    int64_t* const limits[] = {&out_.num_embed_rows, &out_.num_positions, &out_.num_token_types};
    int64_t& known = *limits[static_cast<int>(op.source)];
    known = known == 0 ? limit : std::min(known, limit);
  }

  // has_sum: the linear before has already added; the first output is the sum.
  void LowerNorm(const PlanOp& op, bool has_sum) {
    std::vector<Operand> in, out;
    if (has_sum) {
      in.push_back(Whole(op.outputs[0]));
      out.push_back(Whole(op.outputs[1]));
    } else {
      for (int i = 0; i < op.num_inputs; ++i) in.push_back(View(op.inputs[i]));
      for (int i = 0; i < op.num_outputs; ++i) out.push_back(Whole(op.outputs[i]));
    }
    const Rows rows = in[0].rows;
    NormPhase& phase = EmitRows<NormPhase>(std::move(in), std::move(out), rows);
    phase.weight = Vector(op.weights[0]);
    if (op.num_weights > 1) phase.bias = Vector(op.weights[1]);
    phase.args.weight = phase.weight.data();
    phase.args.bias = phase.bias.empty() ? nullptr : phase.bias.data();
    phase.args.cols = op.inputs[0].cols;
    phase.args.group = static_cast<int>(phase.weight.size());
    phase.args.kind = op.norm_kind;
    phase.args.eps = op.eps;
  }

  void LowerRope(const PlanOp& op) {
    const int half = op.rotary_dim / 2;
    const std::pair<int, float> key{op.weights[0], op.scale};
    auto known = rope_tables_.find(key);
    if (known == rope_tables_.end()) {
      const size_t bytes = static_cast<size_t>(op.rotary_dim) * sizeof(float);
      const Operand table = Extra(NewBuffer(Rows::kTokens, bytes), Rows::kTokens, op.rotary_dim, RoundUp64(bytes));
      RopeTablePhase& phase = EmitRows<RopeTablePhase>({}, {table}, Rows::kTokens);
      phase.inv_freq = Vector(op.weights[0]);
      phase.scale = op.scale;
      known = rope_tables_.emplace(key, table).first;
    }
    RopePhase& phase = EmitRows<RopePhase>({View(op.inputs[0]), known->second}, {Whole(op.outputs[0])}, Rows::kTokens);
    phase.head_dim = op.head_dim;
    phase.half = half;
  }

  void LowerLinear(const PlanOp& op, size_t index) {
    const PlanOp* glu = GluOf(index);
    auto owned = std::make_unique<LinearPhase>();
    owned->kernels = &kernels_;
    owned->matrix = Matrix(op.weights[0], glu != nullptr);
    if (op.num_weights > 1) owned->bias = Vector(op.weights[1]);
    owned->in = Prepared(op.inputs[0], owned->matrix);
    owned->out = Whole(op.outputs[0]);
    if (glu != nullptr && owned->matrix.is_interleaved) {
      owned->epilogue = EpilogueOf(*glu);
      owned->out = Whole(glu->outputs[0]);
      out_.kernels["glu"] = kernels_.LinearOf(owned->matrix.format).isa();
      is_fused_[index + 1] = true;
    } else if (const PlanOp* act = ActOf(index); act != nullptr) {
      owned->epilogue = EpilogueOf(*act);
      owned->out = Whole(act->outputs[0]);
      out_.kernels["act"] = kernels_.LinearOf(owned->matrix.format).isa();
      is_fused_[index + 1] = true;
    } else if (const int residual = ResidualOf(index); residual >= 0) {
      owned->epilogue = linear::Epilogue::kAdd;
      owned->out = Whole(residual);
    }
    std::vector<int> reads{owned->in.buffer};
    const std::vector<int> writes{owned->out.buffer};
    const Rows rows = owned->out.rows;
    if (op.num_inputs == 2) {
      LowerShrink(op, *owned);
      reads.push_back(owned->lora.shrunk.buffer);
    }
    Emit(std::move(owned), rows, reads, writes);
  }

  // Right before its linear: see Phase::IsIdle.
  void LowerShrink(const PlanOp& op, LinearPhase& linear) {
    const auto made = std::find_if(plan_.ops.begin(), plan_.ops.end(), [&](const PlanOp& other) {
      return other.kind == OpKind::kShrink && other.outputs[0] == op.inputs[1].tensor;
    });
    const Operand x = View(op.inputs[0]), shrunk = Whole(op.inputs[1].tensor);
    const auto is_same = [](const PlanView& a, const PlanView& b) {
      return a.tensor == b.tensor && a.offset == b.offset && a.cols == b.cols;
    };
    Require(made != plan_.ops.end() && is_same(made->inputs[0], op.inputs[0]), "a linear's second input is no shrink of its first");
    const int site = static_cast<int>(out_.lora_sites.size());
    Require(out_.site_of_weight.emplace(op.weights[0], site).second, "two linears with adapters share a weight");
    out_.lora_sites.push_back({linear.matrix.n, linear.matrix.k, linear.matrix.is_interleaved, shrunk.cols});
    auto phase = std::make_unique<ShrinkPhase>(kernels_);
    phase->site = site;
    phase->in = x;
    phase->out = shrunk;
    Emit(std::move(phase), x.rows, {x.buffer}, {shrunk.buffer});
    linear.lora = {&kernels_, site, shrunk};
  }

  // The glu that takes both halves of this linear's output, which nothing else reads.
  const PlanOp* GluOf(size_t index) const {
    const PlanOp& op = plan_.ops[index];
    if (index + 1 == plan_.ops.size() || plan_.ops[index + 1].kind != OpKind::kGlu) return nullptr;
    const PlanOp& glu = plan_.ops[index + 1];
    const int32_t half = plan_.tensors[static_cast<size_t>(op.outputs[0])].cols / 2;
    const PlanView &gate = glu.inputs[0], &up = glu.inputs[1];
    const bool takes_halves = gate.tensor == op.outputs[0] && up.tensor == op.outputs[0] && gate.offset == 0 &&
                              gate.cols == half && up.offset == half && up.cols == half;
    if (!takes_halves || reads_[static_cast<size_t>(op.outputs[0])].size() != 2 || op.outputs[0] == plan_.header.output) return nullptr;
    return glu.act == ActKind::kSilu || glu.act == ActKind::kGelu || glu.act == ActKind::kGeluTanh ? &glu : nullptr;
  }

  // The act that takes this linear's output, which nothing else reads.
  const PlanOp* ActOf(size_t index) const {
    const int32_t output = plan_.ops[index].outputs[0];
    if (index + 1 == plan_.ops.size() || plan_.ops[index + 1].kind != OpKind::kAct || output == plan_.header.output) return nullptr;
    const PlanOp& act = plan_.ops[index + 1];
    const bool takes_all = act.inputs[0].tensor == output && act.inputs[0].cols == plan_.tensors[static_cast<size_t>(output)].cols;
    if (!takes_all || reads_[static_cast<size_t>(output)].size() != 1) return nullptr;
    return act.act == ActKind::kGelu || act.act == ActKind::kGeluTanh ? &act : nullptr;
  }

  static linear::Epilogue EpilogueOf(const PlanOp& op) {
    const bool is_glu = op.kind == OpKind::kGlu;
    if (op.act == ActKind::kGelu) return is_glu ? linear::Epilogue::kGluGelu : linear::Epilogue::kGelu;
    if (op.act == ActKind::kGeluTanh) return is_glu ? linear::Epilogue::kGluGeluTanh : linear::Epilogue::kGeluTanh;
    return linear::Epilogue::kGluSilu;
  }

  // The tensor that the next op adds this linear's output to, where neither is read again: the linear then adds in
  // place, and the sum is an alias. -1: none.
  int ResidualOf(size_t index) {
    const int32_t output = plan_.ops[index].outputs[0];
    if (index + 1 == plan_.ops.size() || output == plan_.header.output) return -1;
    const PlanOp& next = plan_.ops[index + 1];
    if (next.kind != OpKind::kAdd && next.kind != OpKind::kAddNorm) return -1;
    const PlanView& residual = next.inputs[next.inputs[0].tensor == output ? 1 : 0];
    const PlanView& mine = next.inputs[next.inputs[0].tensor == output ? 0 : 1];
    const auto is_whole = [this](const PlanView& view) { return view.cols == plan_.tensors[static_cast<size_t>(view.tensor)].cols; };
    const std::vector<size_t>& residual_reads = reads_[static_cast<size_t>(residual.tensor)];
    const bool fits = mine.tensor == output && residual.tensor != output && is_whole(mine) && is_whole(residual) &&
                      reads_[static_cast<size_t>(output)].size() == 1 && residual_reads.back() == index + 1 &&
                      std::count(residual_reads.begin(), residual_reads.end(), index + 1) == 1 &&
                      std::find(residual_reads.begin(), residual_reads.end(), index) == residual_reads.end() &&
                      residual.tensor != plan_.header.output && next.outputs[0] != plan_.header.output;
    if (!fits) return -1;
    alias_[next.outputs[0]] = residual.tensor;
    if (next.kind == OpKind::kAdd) is_fused_[index + 1] = true;
    has_sum_.insert(index + 1);
    return residual.tensor;
  }

  // Which ops read each tensor, in order.
  void CountReads() {
    reads_.resize(plan_.tensors.size());
    is_fused_.resize(plan_.ops.size());
    for (size_t i = 0; i < plan_.ops.size(); ++i) {
      const PlanOp& op = plan_.ops[i];
      for (int j = 0; j < op.num_inputs; ++j) reads_[static_cast<size_t>(op.inputs[j].tensor)].push_back(i);
    }
  }

  // The activation itself, or its rows as the kernel of the matrix reads them: once per activation, since tensors are written once.
  Operand Prepared(const PlanView& view, const linear::PackedMatrix& matrix) {
    const Operand x = View(view);
    const linear::RowFormat format = kernels_.LinearOf(matrix.format).row_format();
    const size_t row_bytes = linear::PreparedRowBytes(format, matrix.k);
    if (row_bytes == 0) return x;
    const auto key = std::make_tuple(view.tensor, view.offset, format);
    const auto known = prepared_.find(key);
    if (known != prepared_.end() && known->second.cols == view.cols) return known->second;
    const Operand rows = Extra(NewBuffer(x.rows, row_bytes), x.rows, view.cols, row_bytes);
    EmitRows<PreparePhase>({x}, {rows}, x.rows).format = format;
    prepared_[key] = rows;
    return rows;
  }

  void LowerAttention(const PlanOp& op) {
    AttentionShape shape;
    shape.layer = op.layer;
    shape.num_heads = op.num_heads;
    shape.num_kv_heads = op.num_kv_heads;
    shape.head_dim = op.head_dim;
    shape.window = op.window;
    shape.scale = op.scale;
    shape.softcap = op.softcap;
    if (out_.queries_per_tile != 0 && out_.queries_per_tile != shape.queries_per_tile()) {
      throw Error("attention layers with different numbers of heads in one plan are not supported");
    }
    out_.queries_per_tile = shape.queries_per_tile();
    ++out_.layers_of_window[shape.window];

    const int cache = NewBuffer(Rows::kTokens, 0);  // stands for this layer's cache in the placing of barriers
    WriteKvPhase& write = EmitRows<WriteKvPhase>({View(op.inputs[1]), View(op.inputs[2])}, {}, Rows::kTokens);
    write.layer = op.layer;
    write.is_only_written_late = write.is_idle_single = shape.writes_only();
    write.writes.push_back(cache);
    const Operand q = View(op.inputs[0]), out = Whole(op.outputs[0]);
    std::vector<int> reads{q.buffer, cache};
    if (shape.writes_only()) reads.insert(reads.end(), write.reads.begin(), write.reads.end());
    for (const bool is_combine : {false, true}) {
      auto phase = is_combine ? std::make_unique<CombinePhase>(kernels_) : std::make_unique<AttentionPhase>(kernels_);
      phase->shape = shape;
      phase->q = q;
      phase->k = write.in[0];
      phase->v = write.in[1];
      phase->out = out;
      if (is_combine) {
        Emit(std::move(phase), Rows::kTokens, {q.buffer, partials_buffer_}, {out.buffer});
      } else {
        Emit(std::move(phase), Rows::kTokens, reads, {out.buffer, partials_buffer_});
      }
    }
  }

  void LowerSelfAttention(const PlanOp& op) {
    auto phase = std::make_unique<SelfAttentionPhase>(kernels_);
    phase->num_heads = op.num_heads;
    phase->num_kv_heads = op.num_kv_heads;
    phase->head_dim = op.head_dim;
    phase->scale = op.scale;
    phase->left = op.left;
    phase->right = op.right;
    phase->q = View(op.inputs[0]);
    phase->k = View(op.inputs[1]);
    phase->v = View(op.inputs[2]);
    phase->out = Whole(op.outputs[0]);
    out_.self_attention_dim = std::max(out_.self_attention_dim, op.head_dim);
    const std::vector<int> reads{phase->q.buffer, phase->k.buffer, phase->v.buffer}, writes{phase->out.buffer};
    Emit(std::move(phase), Rows::kTokens, reads, writes);
  }

  const Plan& plan_;
  const std::span<const TriposWeight> table_;
  const LowerOptions& options_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  LoweredPlan out_;
  size_t panel_bytes_ = 0;
  int partials_buffer_ = -1;
  std::vector<std::vector<size_t>> reads_;  // per tensor
  std::vector<bool> is_fused_;              // ops that an earlier phase does as well
  std::set<size_t> has_sum_;                // add_norms whose sum an earlier phase makes
  std::map<int, int> alias_;                // tensor -> the tensor whose buffer it shares
  std::map<std::pair<int, float>, Operand> rope_tables_;    // (table, scale)
  std::map<std::tuple<int, int, linear::RowFormat>, Operand> prepared_;  // (tensor, offset, format)
};

}  // namespace

PanelMemory::PanelMemory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = linear::AllocatePacked(bytes);
  if (data_ == nullptr) throw Error(Format("cannot get %zu bytes of memory for packed weights", bytes));
}

PanelMemory::~PanelMemory() {
  if (data_ != nullptr) linear::FreePacked(data_, bytes_);
}

uint8_t* PanelMemory::Take(size_t bytes) {
  Require(bytes <= bytes_ - used_, "a plan's weights need more memory than was counted. This is a bug in Tripos");
  return data_ + std::exchange(used_, used_ + bytes);
}

LoweredPlan Lower(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool) {
  return Lowering(plan, table, options, pool).Run();
}

}  // namespace tripos
