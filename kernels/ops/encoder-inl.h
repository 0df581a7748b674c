// Attention among the tokens of one whole sequence, and the mean of its rows. Needs simd-inl.h and
// math-inl.h.
//
// Queries are the lanes: a block of kLanes of them is transposed, and then every score, maximum, weight and sum of theirs
// is a vertical operation, without reductions over lanes. Every score is one chain of multiply-adds over head_dim, every
// sum and every output one chain over keys, so that a result depends on its own sequence alone.
#include <utility>

#include "kernels/ops/encoder.h"

namespace tripos {
namespace {

constexpr int kAtOnce = 8;  // keys, or columns of the output, whose sums are in registers
constexpr float kNoScore = -__builtin_inff();

// kLanes queries of one head, those behind the last token being zero, and the keys that any of them sees.
struct QueryBlock {
  int first, count;
  int low, high;  // keys [low, high)
};

struct AttendScratch {
  float* queries;  // [head_dim][kLanes], scaled
  float* outputs;  // [head_dim, padded][kLanes]
  float* scores;   // [num_tokens][kLanes], then weights
};

inline QueryBlock BlockAt(const SelfAttentionArgs& args, int first) {
  const int rest = args.num_tokens - first, count = rest < kLanes ? rest : kLanes, last = first + count - 1;
  const bool sees_first = args.left < 0 || args.left >= first, sees_last = args.right < 0 || args.right >= args.num_tokens - 1 - last;
  return {first, count, sees_first ? 0 : first - args.left, sees_last ? args.num_tokens : last + args.right + 1};
}

inline void TransposeQueries(const SelfAttentionArgs& args, const QueryBlock& block, const float* q, float* queries) {
  const Vec scale = Set(args.scale);
  q += static_cast<size_t>(block.first) * args.q_stride;
  for (int column = 0; column < args.head_dim; column += kLanes) {
    const int rest = args.head_dim - column;
    Vec v[kLanes];
    for (int r = 0; r < kLanes; ++r) {
      v[r] = r < block.count ? Mul(LoadPart(q + static_cast<size_t>(r) * args.q_stride + column, rest), scale) : Set(0.0f);
    }
    Transpose(v);
    for (int i = 0; i < kLanes && i < rest; ++i) Store(queries + (column + i) * kLanes, v[i]);
  }
}

// Lanes of queries that do not see the key score nothing.
inline Vec Masked(const SelfAttentionArgs& args, const QueryBlock& block, int key, Vec score) {
  if (args.left >= 0 && block.first + block.count - 1 > key + args.left) {
    score = Select(Less(Set(static_cast<float>(key + args.left - block.first)), Ramp()), Set(kNoScore), score);
  }
  if (args.right >= 0 && block.first < key - args.right) {
    score = Select(Less(Ramp(), Set(static_cast<float>(key - args.right - block.first))), Set(kNoScore), score);
  }
  return score;
}

// Scores of kKeys keys from `key` on; returns the largest so far.
template <int kKeys>
Vec ScoreKeys(const SelfAttentionArgs& args, const QueryBlock& block, const AttendScratch& scratch, int key, Vec peak) {
  const float* k = args.k + static_cast<size_t>(key) * args.k_stride;
  const float* rows[kKeys];
  Vec sum[kKeys];
  for (int r = 0; r < kKeys; ++r) {
    rows[r] = k + static_cast<size_t>(r) * args.k_stride;
    sum[r] = Set(0.0f);
  }
  for (int d = 0; d < args.head_dim; ++d) {
    const Vec query = Load(scratch.queries + d * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kKeys; ++r) sum[r] = Fma(Set(rows[r][d]), query, sum[r]);
  }
  for (int r = 0; r < kKeys; ++r) {
    const Vec score = Masked(args, block, key + r, sum[r]);
    peak = Max(peak, score);
    Store(scratch.scores + (key + r) * kLanes, score);
  }
  return peak;
}

// kColumns columns of weights · V, transposed.
template <int kColumns>
void MixValues(const SelfAttentionArgs& args, const QueryBlock& block, const AttendScratch& scratch, int column, Vec share) {
  Vec mixed[kColumns];
  for (int c = 0; c < kColumns; ++c) mixed[c] = Set(0.0f);
  const float* v = args.v + static_cast<size_t>(block.low) * args.v_stride + column;
  for (int key = block.low; key < block.high; ++key, v += args.v_stride) {
    const Vec weight = Load(scratch.scores + key * kLanes);
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; ++c) mixed[c] = Fma(Set(v[c]), weight, mixed[c]);
  }
  for (int c = 0; c < kColumns; ++c) Store(scratch.outputs + (column + c) * kLanes, Mul(mixed[c], share));
}

inline void StoreOutputs(const SelfAttentionArgs& args, const QueryBlock& block, const float* outputs, float* out) {
  out += static_cast<size_t>(block.first) * args.out_stride;
  for (int column = 0; column < args.head_dim; column += kLanes) {
    const int rest = args.head_dim - column;
    Vec v[kLanes];
    for (int i = 0; i < kLanes; ++i) v[i] = i < rest ? Load(outputs + (column + i) * kLanes) : Set(0.0f);
    Transpose(v);
    float* rows = out + column;
    for (int r = 0; r < block.count; ++r, rows += args.out_stride) StorePart(rows, v[r], rest);
  }
}

// Calls do_some(std::integral_constant<int, N>, at) for parts of [first, last) of N <= kAtOnce, of equal size give or
// take one: a part of one would wait for its only chain.
template <typename DoSome>
inline void InParts(int first, int last, DoSome&& do_some) {
  const int count = last - first, parts = (count + kAtOnce - 1) / kAtOnce;
  for (int part = 0; part < parts; ++part) {
    const int at = first + count * part / parts, size = first + count * (part + 1) / parts - at;
    WithConstant<kAtOnce>(size, [&](auto constant) { do_some(constant, at); });
  }
}

void AttendBlock(const SelfAttentionArgs& args, const QueryBlock& block, int head, const AttendScratch& scratch) {
  const size_t at = static_cast<size_t>(head) * static_cast<size_t>(args.head_dim);
  TransposeQueries(args, block, args.q + at, scratch.queries);
  Vec peak = Set(kNoScore);
  InParts(block.low, block.high, [&](auto keys, int key) { peak = ScoreKeys<keys()>(args, block, scratch, key, peak); });
  Vec sum = Set(0.0f);
  for (int key = block.low; key < block.high; ++key) {
    const Vec weight = Exp(Sub(Load(scratch.scores + key * kLanes), peak));
    sum = Add(sum, weight);
    Store(scratch.scores + key * kLanes, weight);
  }
  const Vec share = Div(Set(1.0f), sum);
  InParts(0, args.head_dim, [&](auto columns, int column) { MixValues<columns()>(args, block, scratch, column, share); });
  StoreOutputs(args, block, scratch.outputs, args.out + at);
}

void SelfAttend(const SelfAttentionArgs& args, float* memory) {
  const int size = (args.head_dim + kLanes - 1) / kLanes * kLanes * kLanes;
  const AttendScratch scratch{memory, memory + size, memory + 2 * size};
  for (int head = 0; head < args.num_heads; ++head) {
    for (int first = 0; first < args.num_tokens; first += kLanes) {
      AttendBlock(args, BlockAt(args, first), head, scratch);
    }
  }
}

void Mean(const float* x, size_t stride, int num_rows, int cols, float* y) {
  const Vec share = Set(1.0f / static_cast<float>(num_rows));
  for (int i = 0; i < cols; i += kLanes) {
    Vec sum = Set(0.0f);
    const float* column = x + i;
    for (int row = 0; row < num_rows; ++row, column += stride) sum = Add(sum, LoadPart(column, cols - i));
    StorePart(y + i, Mul(sum, share), cols - i);
  }
}

}  // namespace
}  // namespace tripos
