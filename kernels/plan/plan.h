// The plan as bytes: what src/tripos/runtime/native.py writes from plan.ir.Plan and this library reads.
//
// PlanHeader, then num_tensors PlanTensor, num_ops PlanOp, num_weights PlanWeight, back to back, every field four
// bytes little-endian. Raise TRIPOS_ABI with every change.
#ifndef TRIPOS_PLAN_PLAN_H_
#define TRIPOS_PLAN_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/include/tripos.h"

namespace tripos {

inline constexpr int32_t kPlanMagic = 0x4e4c5054;  // "TPLN"

enum class OpKind : int32_t { kEmbed, kNorm, kLinear, kRope, kAttention, kGlu, kAct, kAdd, kSelect, kAddNorm,
                              kSelfAttention, kPool, kShrink, kCount };
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

struct PlanView {
  int32_t tensor, offset, cols;
};

struct PlanOp {
  OpKind kind;
  int32_t num_inputs;
  PlanView inputs[3];
  int32_t num_outputs;
  int32_t outputs[2];
  int32_t num_weights;
  int32_t weights[2];
  // Attributes as in plan/ops.py; zero where the kind has none.
  Source source;
  int32_t row_offset;
  NormKind norm_kind;
  ActKind act;
  int32_t layer, num_heads, num_kv_heads, head_dim, rotary_dim, window;
  int32_t left, right;  // keys that self_attention sees on each side, -1: all
  float eps, scale, softcap;
};

// Entries [first_part, first_part + num_parts) of the weight table, stacked along rows.
struct PlanWeight {
  int32_t rows, cols;  // a vector has cols 1
  int32_t first_part, num_parts;
};

// Spans into the caller's bytes.
struct Plan {
  PlanHeader header{};
  std::span<const PlanTensor> tensors;
  std::span<const PlanOp> ops;
  std::span<const PlanWeight> weights;
};

// Reads and checks: every index in range, every shape as plan/ops.py says. Throws Error naming the op.
Plan ReadPlan(const void* bytes, size_t num_bytes, std::span<const TriposWeight> table);

}  // namespace tripos

#endif  // TRIPOS_PLAN_PLAN_H_
