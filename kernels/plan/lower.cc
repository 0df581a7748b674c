#include "kernels/plan/lower.h"

#include <algorithm>
#include <set>

#include "kernels/util/error.h"

namespace tripos {
namespace {

size_t RoundUp64(size_t n) { return (n + 63) / 64 * 64; }

linear::SourceType SourceTypeOf(const TriposWeight& weight) {
  if (weight.format < TRIPOS_F32 || weight.format > TRIPOS_Q4_1) throw Error(Format("weight %s: unknown format", weight.name));
  return static_cast<linear::SourceType>(weight.format);  // both lists are in the order of plan/formats.py
}

const char* FormatName(linear::WeightFormat format) {
  constexpr const char* kNames[] = {"fp32", "bf16", "fp16", "int8", "int4", "fp8", "int8_group"};
  return kNames[static_cast<int>(format)];
}

linear::WeightFormat FormatFor(const std::string& name, linear::SourceType source) {
  if (name == "auto" || name.empty()) return linear::NativeFormat(source);
  for (int i = 0; i <= static_cast<int>(linear::WeightFormat::kFp8); ++i) {
    if (name == FormatName(static_cast<linear::WeightFormat>(i))) return static_cast<linear::WeightFormat>(i);
  }
  throw Error(Format("weights \"%s\" is unknown: use auto, fp32, bf16, fp16, int8, int4 or fp8", name.c_str()));
}

class Lowering {
 public:
  Lowering(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool)
      : plan_(plan), table_(table), options_(options), pool_(pool), kernels_(ChooseOpKernels(options.isa)),
        linear_(linear::FindKernels(IsaName(options.isa))) {
    if (linear_ == nullptr) throw Error("no kernels for linear on this CPU");
  }

  LoweredPlan Run() {
    out_.header = plan_.header;
    for (const PlanTensor& tensor : plan_.tensors) {
      out_.buffers.push_back({tensor.rows, RoundUp64(static_cast<size_t>(tensor.cols) * sizeof(float))});
    }
    partials_buffer_ = NewBuffer(Rows::kTokens, 0);
    for (const PlanOp& op : plan_.ops) LowerOp(op);
    PlaceBarriers();
    out_.arena = PlaceBuffers(out_.buffers);
    for (auto& phase : out_.phases) phase->Bind(out_.buffers);
    out_.logits = Whole(plan_.header.output);
    out_.logits.buffer_offset = out_.buffers[static_cast<size_t>(plan_.header.output)].offset;
    return std::move(out_);
  }

 private:
  int NewBuffer(Rows rows, size_t row_bytes) {
    out_.buffers.push_back({rows, RoundUp64(row_bytes)});
    return static_cast<int>(out_.buffers.size()) - 1;
  }

  Operand View(const PlanView& view) const {
    const PlanTensor& tensor = plan_.tensors[static_cast<size_t>(view.tensor)];
    Operand operand;
    operand.buffer = view.tensor;
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

  template <typename P>
  P& Emit(std::unique_ptr<P> phase, Rows rows, std::vector<int> reads, std::vector<int> writes) {
    phase->rows = rows;
    phase->reads = std::move(reads);
    phase->writes = std::move(writes);
    phase->counter = static_cast<int>(out_.phases.size());
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

  linear::PackedMatrix Matrix(int weight) {
    const auto known = out_.matrix_of_weight.find(weight);
    if (known != out_.matrix_of_weight.end()) return out_.matrices[known->second].matrix();
    const PlanWeight& w = plan_.weights[static_cast<size_t>(weight)];
    const bool is_packed = Parts(weight)[0].format == TRIPOS_PANELS;
    out_.matrices.push_back(is_packed ? OwnedMatrix::Map(PanelsOf(w, Parts(weight)[0])) : PackParts(weight, w));
    out_.matrix_of_weight[weight] = out_.matrices.size() - 1;
    const linear::PackedMatrix& matrix = out_.matrices.back().matrix();
    out_.weight_bytes += matrix.bytes();
    out_.kernels[std::string("linear.") + FormatName(matrix.format)] = linear_->name;
    return matrix;
  }

  OwnedMatrix PackParts(int weight, const PlanWeight& w) {
    std::vector<linear::SourceMatrix> parts;
    for (const Table::Part& part : TableOf(weight).parts) parts.push_back({part.type, part.data, part.rows, w.cols});
    linear::PackedMatrix shape;
    shape.format = FormatFor(options_.weights, parts[0].type);
    shape.n = w.rows;
    shape.k = w.cols;
    return OwnedMatrix::Pack(shape, parts, pool_);
  }

  static linear::PackedMatrix PanelsOf(const PlanWeight& w, const TriposWeight& part) {
    linear::PackedMatrix matrix;
    if (part.panel_format < 0 || part.panel_format > static_cast<int32_t>(linear::WeightFormat::kInt8Group)) {
      throw Error(Format("weight %s: panels of kind %d are not known", part.name, part.panel_format));
    }
    matrix.format = static_cast<linear::WeightFormat>(part.panel_format);
    matrix.n = w.rows;
    matrix.k = w.cols;
    matrix.data = static_cast<const uint8_t*>(part.data);
    if (w.num_parts != 1 || part.bytes != static_cast<int64_t>(matrix.bytes())) {
      throw Error(Format("weight %s: %lld bytes of panels, its shape needs %zu", part.name,
                         static_cast<long long>(part.bytes), matrix.bytes()));
    }
    if (reinterpret_cast<uintptr_t>(part.data) % linear::kAlignment != 0) {
      throw Error(Format("weight %s: its panels are not aligned to %zu bytes", part.name, linear::kAlignment));
    }
    return matrix;
  }

  void LowerOp(const PlanOp& op) {
    static constexpr const char* kNames[] = {"embed", "norm", "linear", "rope", "attention", "glu", "act", "add", "select", "norm"};
    if (op.kind != OpKind::kLinear) out_.kernels[kNames[static_cast<int>(op.kind)]] = IsaName(kernels_.isa);
    switch (op.kind) {
      case OpKind::kEmbed: return LowerEmbed(op);
      case OpKind::kNorm:
      case OpKind::kAddNorm: return LowerNorm(op);
      case OpKind::kLinear: return LowerLinear(op);
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
    int64_t& known = op.source == Source::kTokenIds ? out_.num_embed_rows : out_.num_positions;
    known = known == 0 ? limit : std::min(known, limit);
  }

  void LowerNorm(const PlanOp& op) {
    std::vector<Operand> in, out;
    for (int i = 0; i < op.num_inputs; ++i) in.push_back(View(op.inputs[i]));
    for (int i = 0; i < op.num_outputs; ++i) out.push_back(Whole(op.outputs[i]));
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

  void LowerLinear(const PlanOp& op) {
    auto owned = std::make_unique<LinearPhase>();
    owned->kernels = linear_;
    owned->matrix = Matrix(op.weights[0]);
    if (op.num_weights > 1) owned->bias = Vector(op.weights[1]);
    owned->in = Prepared(op.inputs[0], owned->matrix);
    owned->out = Whole(op.outputs[0]);
    const std::vector<int> reads{owned->in.buffer}, writes{owned->out.buffer};
    const Rows rows = owned->out.rows;
    Emit(std::move(owned), rows, reads, writes);
  }

  // The activation itself, or its quantized rows: once per activation, since tensors are written once.
  Operand Prepared(const PlanView& view, const linear::PackedMatrix& matrix) {
    const Operand x = View(view);
    const size_t row_bytes = linear::PreparedRowBytes(matrix.format, matrix.k);
    if (row_bytes == 0) return x;
    const auto key = std::make_pair(view.tensor, view.offset);
    const auto known = prepared_.find(key);
    if (known != prepared_.end() && known->second.cols == view.cols) return known->second;
    const Operand rows = Extra(NewBuffer(x.rows, row_bytes), x.rows, view.cols, row_bytes);
    EmitRows<PreparePhase>({x}, {rows}, x.rows).linear_kernels = linear_;
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
    out_.num_head_tiles = shape.num_kv_heads * shape.tiles_per_kv_head();

    const int cache = NewBuffer(Rows::kTokens, 0);  // stands for this layer's cache in the placing of barriers
    WriteKvPhase& write = EmitRows<WriteKvPhase>({View(op.inputs[1]), View(op.inputs[2])}, {}, Rows::kTokens);
    write.layer = op.layer;
    write.writes.push_back(cache);
    const Operand q = View(op.inputs[0]), out = Whole(op.outputs[0]);
    for (const bool is_combine : {false, true}) {
      auto phase = is_combine ? std::make_unique<CombinePhase>(kernels_) : std::make_unique<AttentionPhase>(kernels_);
      phase->shape = shape;
      phase->q = q;
      phase->out = out;
      if (is_combine) {
        Emit(std::move(phase), Rows::kTokens, {q.buffer, partials_buffer_}, {out.buffer});
      } else {
        Emit(std::move(phase), Rows::kTokens, {q.buffer, cache}, {out.buffer, partials_buffer_});
      }
    }
  }

  // A barrier goes before a phase that touches what another thread may have written (or writes what another may still
  // read) since the last barrier. Buffers live for whole intervals between barriers, so sharing memory adds no hazard.
  void PlaceBarriers() {
    std::map<int, const Phase*> readers, writers;
    int interval = 0;
    const auto conflicts = [](const std::map<int, const Phase*>& others, int buffer, const Phase& phase) {
      const auto other = others.find(buffer);
      if (other == others.end()) return false;
      return !(phase.is_row_wise && other->second->is_row_wise && other->second->rows == phase.rows);
    };
    for (auto& phase : out_.phases) {
      bool needs = false;
      for (int buffer : phase->reads) needs |= conflicts(writers, buffer, *phase);
      for (int buffer : phase->writes) needs |= conflicts(writers, buffer, *phase) || conflicts(readers, buffer, *phase);
      if (needs) {
        ++interval;
        readers.clear();
        writers.clear();
      }
      phase->needs_barrier = needs;
      // Of several phases in an interval the one that is not row-wise is the one to beware of.
      for (int buffer : phase->reads) Note(readers, buffer, *phase, interval);
      for (int buffer : phase->writes) Note(writers, buffer, *phase, interval);
    }
    Buffer& logits = out_.buffers[static_cast<size_t>(plan_.header.output)];
    logits.last = interval + 1;
  }

  void Note(std::map<int, const Phase*>& touched, int buffer, const Phase& phase, int interval) {
    const auto [entry, is_new] = touched.emplace(buffer, &phase);
    if (!is_new && entry->second->is_row_wise) entry->second = &phase;
    Buffer& b = out_.buffers[static_cast<size_t>(buffer)];
    if (b.first < 0) b.first = interval;
    b.last = std::max(b.last, interval);
  }

  const Plan& plan_;
  const std::span<const TriposWeight> table_;
  const LowerOptions& options_;
  ThreadPool& pool_;
  const OpKernels& kernels_;
  const linear::Kernels* const linear_;
  LoweredPlan out_;
  int partials_buffer_ = -1;
  std::map<std::pair<int, float>, Operand> rope_tables_;    // (table, scale)
  std::map<std::pair<int, int>, Operand> prepared_;         // (tensor, offset)
};

}  // namespace

OwnedMatrix::~OwnedMatrix() {
  if (bytes_ != nullptr) linear::FreePacked(bytes_, matrix_.bytes());
}

OwnedMatrix OwnedMatrix::Map(const linear::PackedMatrix& matrix) {
  OwnedMatrix mapped;
  mapped.matrix_ = matrix;
  return mapped;
}

OwnedMatrix OwnedMatrix::Pack(linear::PackedMatrix shape, std::span<const linear::SourceMatrix> parts, ThreadPool& pool) {
  OwnedMatrix owned;
  owned.bytes_ = linear::AllocatePacked(shape.bytes());
  if (owned.bytes_ == nullptr) throw Error(Format("cannot get %zu bytes of memory for a packed weight", shape.bytes()));
  shape.data = owned.bytes_;
  owned.matrix_ = shape;
  std::atomic<bool> is_packed{true};
  pool.Run([&](int thread) {
    const Range range = RangeOf(shape.num_panels(), thread, pool.num_threads());
    if (!linear::Pack(shape, parts, range.first, range.last, owned.bytes_)) is_packed = false;
  });
  if (!is_packed) {
    throw Error(Format("a weight of %lld x %lld cannot be packed as %s", static_cast<long long>(shape.n),
                       static_cast<long long>(shape.k), FormatName(shape.format)));
  }
  return owned;
}

LoweredPlan Lower(const Plan& plan, std::span<const TriposWeight> table, const LowerOptions& options, ThreadPool& pool) {
  return Lowering(plan, table, options, pool).Run();
}

}  // namespace tripos
