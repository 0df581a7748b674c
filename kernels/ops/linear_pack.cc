// Checkpoint rows to panels: dequantize 32 rows, quantize, interleave. Runs on any thread, panel by panel.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/ops/linear.h"
#include "kernels/ops/linear_layout.h"
#include "kernels/quant/floats.h"
#include "kernels/quant/gguf.h"
#include "kernels/quant/quantize.h"

namespace tripos::linear {
namespace {

using quant::Int4Group;
using quant::Int8Group;

constexpr int kCols = static_cast<int>(kPanelCols);

struct SourceRow {
  SourceType type = SourceType::kF32;
  const uint8_t* data = nullptr;  // nullptr: padding
};

// Column c of a panel as a row of the stacked parts; -1 for padding.
int64_t RowOfColumn(const PackedMatrix& matrix, int64_t panel, int c) {
  if (!matrix.is_interleaved) {
    const int64_t row = panel * kPanelCols + c;
    return row < matrix.n ? row : -1;
  }
  const int64_t half = matrix.n / 2;
  const int64_t row = panel * 16 + c % 16;
  return row < half ? row + c / 16 * half : -1;
}

SourceRow FindRow(std::span<const SourceMatrix> parts, int64_t row) {
  for (const SourceMatrix& part : parts) {
    if (row < part.rows) {
      const uint8_t* data = static_cast<const uint8_t*>(part.data);
      return {part.type, data + static_cast<size_t>(row) * SourceRowBytes(part.type, part.cols)};
    }
    row -= part.rows;
  }
  return {};
}

// The panel's rows as float32, [32, PaddedK], zeros in the padding.
class FloatRows {
 public:
  explicit FloatRows(int64_t k) : k_(k), stride_(PaddedK(k)), values_(static_cast<size_t>(stride_) * kCols) {}

  void Load(const SourceRow (&rows)[kCols]) {
    for (int c = 0; c < kCols; ++c) {
      float* out = row(c);
      if (rows[c].data != nullptr) {
        DequantizeRow(rows[c].type, rows[c].data, k_, out);
      } else {
        std::fill_n(out, k_, 0.0f);
      }
    }
  }

  float* row(int c) { return values_.data() + c * stride_; }

 private:
  int64_t k_, stride_;
  std::vector<float> values_;
};

void PackF32(FloatRows* rows, int64_t k, float* out) {
  for (int c = 0; c < kCols; ++c) {
    const float* x = rows->row(c);
    for (int64_t i = 0; i < k; ++i) out[i * kCols + c] = x[i];
  }
}

void PackBF16(FloatRows* rows, int64_t k, uint16_t* out) {
  for (int c = 0; c < kCols; ++c) {
    const float* x = rows->row(c);
    for (int64_t i = 0; i < PaddedK(k); ++i) {
      out[i / 2 * 2 * kCols + 2 * c + i % 2] = i < k ? quant::ToBF16(x[i]) : uint16_t{0};
    }
  }
}

void PackF16(FloatRows* rows, int64_t k, uint16_t* out) {
  for (int c = 0; c < kCols; ++c) {
    const float* x = rows->row(c);
    for (int64_t i = 0; i < k; ++i) out[i * kCols + c] = quant::ToF16(x[i]);
  }
}

void PackFp8(FloatRows* rows, int64_t k, uint8_t* out) {
  std::vector<uint8_t> codes(static_cast<size_t>(k) + 1);
  float* scales = reinterpret_cast<float*>(out);
  for (int c = 0; c < kCols; ++c) {
    scales[c] = quant::QuantizeFp8(rows->row(c), k, codes.data());
    codes[static_cast<size_t>(k)] = 0;
    uint8_t* pair = out + 128 + 2 * c;
    for (int64_t i = 0; i < k; i += 2, pair += 64) std::memcpy(pair, codes.data() + i, 2);
  }
}

// Byte values [32][PaddedK] of one column each, four k side by side.
void InterleaveQuads(const uint8_t* q, int64_t count, int c, uint8_t* out) {
  for (int64_t i = 0; i < count; i += 4) std::memcpy(out + i * kCols + 4 * c, q + i, 4);
}

void PackInt8(FloatRows* rows, int64_t k, uint8_t* out) {
  std::vector<int8_t> q(static_cast<size_t>(PaddedK(k)), 0);
  float* scales = reinterpret_cast<float*>(out);
  for (int c = 0; c < kCols; ++c) {
    scales[c] = quant::QuantizeInt8(rows->row(c), k, q.data());
    uint8_t* biased = reinterpret_cast<uint8_t*>(q.data());
    for (int64_t i = 0; i < PaddedK(k); ++i) biased[i] ^= 0x80u;  // + 128
    InterleaveQuads(biased, PaddedK(k), c, out + 128);
    std::fill(q.begin() + k, q.end(), int8_t{0});
  }
}

void StoreInt4(const Int4Group& group, int c, uint8_t* out) {
  uint16_t* halves = reinterpret_cast<uint16_t*>(out);
  halves[c] = group.scale;
  halves[kCols + c] = group.minimum;
  for (int chunk = 0; chunk < 4; ++chunk) {
    uint8_t* quad = out + 128 + chunk * 128 + 4 * c;
    for (int j = 0; j < 4; ++j)
      quad[j] = static_cast<uint8_t>(group.q[chunk * 8 + j] | group.q[chunk * 8 + 4 + j] << 4);
  }
}

void StoreInt8Group(const Int8Group& group, int c, uint8_t* out) {
  reinterpret_cast<uint16_t*>(out)[c] = group.scale;
  uint8_t biased[kGroup];
  for (int j = 0; j < kGroup; ++j) biased[j] = static_cast<uint8_t>(group.q[j]) ^ 0x80u;
  InterleaveQuads(biased, kGroup, c, out + 64);
}

// Grouped formats take a block type's own groups where it has them, column by column.
template <class Group, class Direct, class Quantize, class Store>
void PackGroups(const SourceRow (&rows)[kCols], int64_t k, size_t group_bytes, uint8_t* out, Direct direct,
                Quantize quantize, Store store) {
  const int64_t groups = PaddedK(k) / kGroup;
  std::vector<Group> row(static_cast<size_t>(groups));
  std::vector<float> values(static_cast<size_t>(PaddedK(k)), 0.0f);
  for (int c = 0; c < kCols; ++c) {
    if (rows[c].data == nullptr) {
      std::fill(row.begin(), row.end(), Group{});
    } else if (!direct(rows[c], k, row.data())) {
      DequantizeRow(rows[c].type, rows[c].data, k, values.data());
      quantize(values.data(), groups, row.data());
    }
    for (int64_t g = 0; g < groups; ++g) store(row[static_cast<size_t>(g)], c, out + g * group_bytes);
  }
}

bool DirectInt4(const SourceRow& row, int64_t k, Int4Group* groups) {
  if (row.type == SourceType::kQ4_0) return quant::UnpackQ4_0(row.data, k, groups), true;
  if (row.type == SourceType::kQ4_1) return quant::UnpackQ4_1(row.data, k, groups), true;
  if (row.type == SourceType::kQ4_K) return quant::UnpackQ4_K(row.data, k, groups), true;
  return false;
}

bool DirectInt8(const SourceRow& row, int64_t k, Int8Group* groups) {
  if (row.type == SourceType::kQ8_0) return quant::UnpackQ8_0(row.data, k, groups), true;
  if (row.type == SourceType::kQ5_0) return quant::UnpackQ5_0(row.data, k, groups), true;
  if (row.type == SourceType::kQ3_K) return quant::UnpackQ3_K(row.data, k, groups), true;
  return false;
}

void PackPanel(const PackedMatrix& matrix, const SourceRow (&rows)[kCols], FloatRows* floats, uint8_t* out) {
  const int64_t k = matrix.k;
  if (matrix.format == WeightFormat::kInt4) {
    return PackGroups<Int4Group>(rows, k, kInt4GroupBytes, out, DirectInt4, quant::QuantizeInt4, StoreInt4);
  }
  if (matrix.format == WeightFormat::kInt8Group) {
    return PackGroups<Int8Group>(rows, k, kInt8GroupBytes, out, DirectInt8, quant::QuantizeInt8Groups, StoreInt8Group);
  }
  floats->Load(rows);
  switch (matrix.format) {
    case WeightFormat::kF32: return PackF32(floats, k, reinterpret_cast<float*>(out));
    case WeightFormat::kBF16: return PackBF16(floats, k, reinterpret_cast<uint16_t*>(out));
    case WeightFormat::kF16: return PackF16(floats, k, reinterpret_cast<uint16_t*>(out));
    case WeightFormat::kFp8: return PackFp8(floats, k, out);
    default: return PackInt8(floats, k, out);
  }
}

bool Fits(const PackedMatrix& matrix, std::span<const SourceMatrix> parts) {
  int64_t rows = 0;
  for (const SourceMatrix& part : parts) {
    if (part.cols != matrix.k || part.rows < 0 || SourceRowBytes(part.type, part.cols) == 0) return false;
    rows += part.rows;
  }
  return rows == matrix.n && (!matrix.is_interleaved || matrix.n % 2 == 0);
}

}  // namespace

bool Pack(const PackedMatrix& matrix, std::span<const SourceMatrix> parts, int64_t first_panel, int64_t last_panel,
          uint8_t* data) {
  if (!Fits(matrix, parts)) return false;
  FloatRows floats(matrix.k);
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    SourceRow rows[kCols];
    for (int c = 0; c < kCols; ++c) {
      const int64_t row = RowOfColumn(matrix, panel, c);
      if (row >= 0) rows[c] = FindRow(parts, row);
    }
    PackPanel(matrix, rows, &floats, data + static_cast<size_t>(panel) * matrix.panel_bytes());
  }
  return true;
}

WeightFormat NativeFormat(SourceType type) {
  switch (type) {
    case SourceType::kF32: return WeightFormat::kF32;
    case SourceType::kF16: return WeightFormat::kF16;
    case SourceType::kBF16: return WeightFormat::kBF16;
    case SourceType::kQ4_0:
    case SourceType::kQ4_1:
    case SourceType::kQ4_K: return WeightFormat::kInt4;
    default: return WeightFormat::kInt8Group;
  }
}

size_t SourceRowBytes(SourceType type, int64_t k) {
  const auto blocks = [k](int64_t values, size_t bytes) {
    return k % values == 0 ? static_cast<size_t>(k / values) * bytes : size_t{0};
  };
  switch (type) {
    case SourceType::kF32: return blocks(1, 4);
    case SourceType::kF16:
    case SourceType::kBF16: return blocks(1, 2);
    case SourceType::kQ8_0: return blocks(32, quant::kQ8_0Bytes);
    case SourceType::kQ4_0: return blocks(32, quant::kQ4_0Bytes);
    case SourceType::kQ4_1: return blocks(32, quant::kQ4_1Bytes);
    case SourceType::kQ5_0: return blocks(32, quant::kQ5_0Bytes);
    case SourceType::kQ5_1: return blocks(32, quant::kQ5_1Bytes);
    case SourceType::kQ2_K: return blocks(256, quant::kQ2_KBytes);
    case SourceType::kQ3_K: return blocks(256, quant::kQ3_KBytes);
    case SourceType::kQ4_K: return blocks(256, quant::kQ4_KBytes);
    case SourceType::kQ5_K: return blocks(256, quant::kQ5_KBytes);
    case SourceType::kQ6_K: return blocks(256, quant::kQ6_KBytes);
  }
  return 0;
}

bool DequantizeRow(SourceType type, const void* row, int64_t k, float* out) {
  const uint8_t* bytes = static_cast<const uint8_t*>(row);
  switch (type) {
    case SourceType::kF32: std::memcpy(out, row, static_cast<size_t>(k) * 4); return true;
    case SourceType::kF16:
      for (int64_t i = 0; i < k; ++i) {
        uint16_t half;
        std::memcpy(&half, bytes + 2 * i, 2);
        out[i] = quant::FromF16(half);
      }
      return true;
    case SourceType::kBF16:
      for (int64_t i = 0; i < k; ++i) {
        uint16_t half;
        std::memcpy(&half, bytes + 2 * i, 2);
        out[i] = quant::FromBF16(half);
      }
      return true;
    case SourceType::kQ8_0: return quant::DequantizeQ8_0(bytes, k, out), true;
    case SourceType::kQ4_0: return quant::DequantizeQ4_0(bytes, k, out), true;
    case SourceType::kQ4_1: return quant::DequantizeQ4_1(bytes, k, out), true;
    case SourceType::kQ5_0: return quant::DequantizeQ5_0(bytes, k, out), true;
    case SourceType::kQ5_1: return quant::DequantizeQ5_1(bytes, k, out), true;
    case SourceType::kQ2_K: return quant::DequantizeQ2_K(bytes, k, out), true;
    case SourceType::kQ3_K: return quant::DequantizeQ3_K(bytes, k, out), true;
    case SourceType::kQ4_K: return quant::DequantizeQ4_K(bytes, k, out), true;
    case SourceType::kQ5_K: return quant::DequantizeQ5_K(bytes, k, out), true;
    case SourceType::kQ6_K: return quant::DequantizeQ6_K(bytes, k, out), true;
  }
  return false;
}

}  // namespace tripos::linear
