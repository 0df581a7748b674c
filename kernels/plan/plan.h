// The plan as bytes: what src/tripos/runtime/plan_bytes.py writes from plan.ir.Plan and this library reads.
//
// PlanHeader, then num_tensors PlanTensor, num_weights PlanWeight, and num_ops ops back to back, every field four bytes
// little-endian. An op is PlanOpHeader, its inputs (PlanView), outputs (tensors), weights, and a PlanAttr for each
// attribute of its row in the op table. Raise TRIPOS_ABI with every change.
#ifndef TRIPOS_PLAN_PLAN_H_
#define TRIPOS_PLAN_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/include/tripos.h"

namespace tripos {

inline constexpr int32_t kPlanMagic = 0x4e4c5054;  // "TPLN"

enum class Rows : int32_t { kTokens, kSampled };
enum class Source : int32_t { kTokenIds, kPositions, kTokenTypes };
enum class NormKind : int32_t { kRms, kLayer };
enum class ActKind : int32_t { kSilu, kGelu, kGeluTanh, kRelu, kTanh };

struct PlanHeader {
  int32_t magic, abi, num_tensors, num_ops, num_weights;
  int32_t num_layers, num_kv_heads, head_dim, vocab_size, output;
};

struct PlanTensor {
  Rows rows;
  int32_t cols;
};

// Entries [first_part, first_part + num_parts) of the weight table, stacked along rows.
struct PlanWeight {
  int32_t rows, cols;  // a vector has cols 1
  int32_t first_part, num_parts;
};

struct PlanOpHeader {
  int32_t kind;  // place in the op table
  int32_t num_inputs, num_outputs, num_weights, num_attrs;
};

struct PlanView {
  int32_t tensor, offset, cols;

  friend bool operator==(const PlanView&, const PlanView&) = default;
};

struct PlanAttr {
  int32_t tag;    // place in the row
  int32_t value;  // of a float its bits, of an enum the place of its name
};

struct OpRow;  // op_table.h

// Spans into the caller's bytes.
struct PlanOp {
  const OpRow* row = nullptr;
  std::span<const PlanView> inputs;
  std::span<const int32_t> outputs, weights;
  std::span<const PlanAttr> attrs;

  bool has_matrix() const;  // its first weight is one that is packed
  // By the names of the row; of an enum the value behind the name.
  int32_t Int(std::string_view attr) const;
  float Float(std::string_view attr) const;
  bool Bool(std::string_view attr) const { return Int(attr) != 0; }
  template <typename E>
  E Enum(std::string_view attr) const {
    return static_cast<E>(Int(attr));
  }
};

struct Plan {
  PlanHeader header{};
  std::span<const PlanTensor> tensors;
  std::span<const PlanWeight> weights;
  std::vector<PlanOp> ops;
};

// Reads and checks: every index in range, every shape as its op's row demands. Throws Error naming the op.
Plan ReadPlan(const void* bytes, size_t num_bytes, std::span<const TriposWeight> table);

}  // namespace tripos

#endif  // TRIPOS_PLAN_PLAN_H_
