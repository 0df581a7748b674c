#include "kernels/plan/weights.h"

#include <atomic>
#include <cstring>
#include <string_view>

#include "kernels/plan/op_table.h"
#include "kernels/plan/phase.h"
#include "kernels/util/error.h"
#include "kernels/util/memory.h"

namespace tripos {
namespace {

using linear::PackedMatrix;
using linear::SourceType;
using linear::WeightFormat;

constexpr std::pair<const char*, WeightFormat> kPanelFormats[] = {
    {"fp32", WeightFormat::kF32}, {"bf16", WeightFormat::kBF16}, {"fp16", WeightFormat::kF16},
    {"int8", WeightFormat::kInt8}, {"int4", WeightFormat::kInt4}, {"fp8", WeightFormat::kFp8},
    {"int8_group", WeightFormat::kInt8Group},  // as stored only
};
constexpr std::pair<const char*, SourceType> kStoredFormats[] = {
    {"f32", SourceType::kF32}, {"f16", SourceType::kF16}, {"bf16", SourceType::kBF16}, {"q8_0", SourceType::kQ8_0},
    {"q4_0", SourceType::kQ4_0}, {"q4_k", SourceType::kQ4_K}, {"q5_k", SourceType::kQ5_K},
    {"q6_k", SourceType::kQ6_K}, {"q4_1", SourceType::kQ4_1}, {"q5_0", SourceType::kQ5_0},
    {"q5_1", SourceType::kQ5_1}, {"q2_k", SourceType::kQ2_K}, {"q3_k", SourceType::kQ3_K},
};
static_assert(std::size(kStoredFormats) == TRIPOS_NUM_FORMATS);
static_assert(static_cast<int>(SourceType::kQ8_0) == TRIPOS_Q8_0 && static_cast<int>(SourceType::kQ3_K) == TRIPOS_Q3_K);

SourceType SourceTypeOf(const TriposWeight& weight) {
  for (const auto& [name, type] : kStoredFormats) {
    if (weight.format == static_cast<int32_t>(type)) return type;
  }
  throw Error(Format("weight %s: unknown format", weight.name));
}

WeightFormat FormatFor(const std::string& wanted, SourceType source) {
  if (wanted == "auto" || wanted.empty()) return linear::NativeFormat(source);
  for (const auto& [name, format] : kPanelFormats) {
    if (wanted == name && format != WeightFormat::kInt8Group) return format;
  }
  throw Error(Format("weights \"%s\" is unknown: use auto, fp32, bf16, fp16, int8, int4 or fp8", wanted.c_str()));
}

// A weight that comes packed.
PackedMatrix PanelsOf(const PlanWeight& w, const TriposWeight& part) {
  const int32_t number = part.panel_format & ~kInterleavedPanels;
  PackedMatrix matrix;
  matrix.is_interleaved = number != part.panel_format;
  matrix.n = w.rows;
  matrix.k = w.cols;
  matrix.data = static_cast<const uint8_t*>(part.data);
  const bool is_known = number >= 0 && number < static_cast<int32_t>(std::size(kPanelFormats));
  if (!is_known || (matrix.is_interleaved && w.rows % 2 != 0)) {
    throw Error(Format("weight %s: panels of kind %d are not known", part.name, part.panel_format));
  }
  matrix.format = static_cast<WeightFormat>(number);
  if (w.num_parts != 1 || part.bytes != static_cast<int64_t>(matrix.bytes())) {
    throw Error(Format("weight %s: %lld bytes of panels, its shape needs %zu", part.name,
                       static_cast<long long>(part.bytes), matrix.bytes()));
  }
  return matrix;
}

template <typename Names>
std::string Numbers(const char* key, const Names& names) {
  std::string text;
  for (const auto& [name, value] : names) {
    text += Format("%s%s:%d", text.empty() ? "" : ",", name, static_cast<int>(value));
  }
  return key + ("=" + text) + "\n";
}

}  // namespace

const char* FormatName(WeightFormat format) {
  for (const auto& [name, known] : kPanelFormats) {
    if (known == format) return name;
  }
  return "unknown";
}

std::string PrintFormats() {
  return Numbers("stored_formats", kStoredFormats) + Numbers("panel_formats", kPanelFormats);
}

void Table::Row(int64_t row, float* out) const {
  for (const linear::SourceMatrix& part : parts) {
    if (row < part.rows) {
      const size_t at = static_cast<size_t>(row) * linear::SourceRowBytes(part.type, cols);
      linear::DequantizeRow(part.type, static_cast<const uint8_t*>(part.data) + at, cols, out);
      return;
    }
    row -= part.rows;
  }
}

WeightReader::WeightReader(const Plan& plan, std::span<const TriposWeight> table, std::string format,
                           TriposProgress progress, ThreadPool& pool)
    : plan_(plan), table_(table), format_(std::move(format)), progress_(progress), pool_(pool) {
  std::map<int, size_t> sizes;
  for (const PlanOp& op : plan.ops) {
    if (!op.has_matrix()) continue;
    sizes[op.weights[0]] = RoundUp64(ShapeOf(op.weights[0]).bytes());  // the same where interleaved
  }
  for (const auto& [weight, bytes] : sizes) num_bytes_ += bytes;
  if (num_bytes_ == 0) return;
  uint8_t* panels = linear::AllocatePacked(num_bytes_);
  if (panels == nullptr) throw Error(Format("cannot get %zu bytes of memory for packed weights", num_bytes_));
  packed_.panels = {panels, [size = num_bytes_](uint8_t* data) { linear::FreePacked(data, size); }};
}

std::span<const TriposWeight> WeightReader::Parts(int weight) const {
  const PlanWeight& w = ShapeInPlan(weight);
  return table_.subspan(static_cast<size_t>(w.first_part), static_cast<size_t>(w.num_parts));
}

Table WeightReader::TableOf(int weight) const {
  Table table;
  const PlanWeight& w = ShapeInPlan(weight);
  table.rows = w.rows;
  table.cols = w.cols;
  for (const TriposWeight& part : Parts(weight)) {
    const SourceType type = SourceTypeOf(part);
    const size_t row_bytes = linear::SourceRowBytes(type, w.cols);
    const int64_t rows = part.rows * part.cols / w.cols;
    const bool is_whole = row_bytes > 0 && rows * w.cols == part.rows * part.cols;
    if (!is_whole || part.bytes < rows * static_cast<int64_t>(row_bytes)) {
      throw Error(Format("weight %s: %lld bytes do not hold %lld rows of %d values", part.name,
                         static_cast<long long>(part.bytes), static_cast<long long>(rows), w.cols));
    }
    table.parts.push_back({type, part.data, rows, w.cols});
  }
  return table;
}

std::vector<float> WeightReader::Vector(int weight) const {
  std::vector<float> values;
  for (const TriposWeight& part : Parts(weight)) {
    const size_t start = values.size();
    const int64_t count = part.rows * part.cols;
    const SourceType type = SourceTypeOf(part);
    if (part.bytes < static_cast<int64_t>(linear::SourceRowBytes(type, count))) {
      throw Error(Format("weight %s: fewer bytes than its shape needs", part.name));
    }
    values.resize(start + static_cast<size_t>(count));
    linear::DequantizeRow(type, part.data, count, values.data() + start);
  }
  return values;
}

PackedMatrix WeightReader::ShapeOf(int weight) const {
  const PlanWeight& w = ShapeInPlan(weight);
  const TriposWeight& first = Parts(weight)[0];
  if (first.format == TRIPOS_PANELS) return PanelsOf(w, first);
  PackedMatrix shape;
  shape.format = FormatFor(format_, SourceTypeOf(first));
  shape.n = w.rows;
  shape.k = w.cols;
  return shape;
}

PackedMatrix WeightReader::Matrix(int weight, bool is_interleaved) {
  const auto known = packed_.matrices.find(weight);
  PackedMatrix matrix = known != packed_.matrices.end() ? known->second : ShapeOf(weight);
  if (matrix.data == nullptr) matrix.is_interleaved = is_interleaved;
  if (matrix.is_interleaved != is_interleaved) {
    throw Error(Format("weight %s: packed %s, the plan takes it %s: pack the model again", Parts(weight)[0].name,
                       matrix.is_interleaved ? "interleaved" : "row by row",
                       is_interleaved ? "interleaved" : "row by row"));
  }
  if (known != packed_.matrices.end()) return matrix;
  uint8_t* bytes = packed_.panels.get() + std::exchange(num_taken_, num_taken_ + RoundUp64(matrix.bytes()));
  Require(num_taken_ <= num_bytes_, "weights need more memory than was counted. This is a bug in Tripos");
  matrix.data != nullptr ? Copy(matrix, bytes) : Pack(matrix, weight, bytes);
  for (const TriposWeight& part : Parts(weight)) {
    if (part.is_mapped != 0) LetPagesGo(part.data, static_cast<size_t>(part.bytes));
  }
  matrix.data = bytes;
  packed_.matrices[weight] = matrix;
  packed_.bytes += matrix.bytes();
  const double done = static_cast<double>(packed_.bytes) / static_cast<double>(num_bytes_);
  if (progress_ != nullptr && progress_(done) == 0) throw Error("the load was ended by whoever follows it");
  return matrix;
}

void WeightReader::Copy(const PackedMatrix& matrix, uint8_t* bytes) {
  pool_.Run([&](int thread) {
    const Range range = RangeOf(static_cast<int64_t>(matrix.bytes()), thread, pool_.num_threads());
    std::memcpy(bytes + range.first, matrix.data + range.first, static_cast<size_t>(range.last - range.first));
  });
}

void WeightReader::Pack(const PackedMatrix& shape, int weight, uint8_t* bytes) {
  const Table table = TableOf(weight);
  std::atomic<bool> is_packed{true};
  pool_.Run([&](int thread) {
    const Range range = RangeOf(shape.num_panels(), thread, pool_.num_threads());
    if (!linear::Pack(shape, table.parts, range.first, range.last, bytes)) is_packed = false;
  });
  if (!is_packed) {
    throw Error(Format("a weight of %lld x %lld cannot be packed as %s", static_cast<long long>(shape.n),
                       static_cast<long long>(shape.k), FormatName(shape.format)));
  }
}

}  // namespace tripos
