// Attention among the tokens of one whole sequence, and the mean of its rows. Needs simd-inl.h.
//
// Keys are transposed once per sequence and head, so that tokens are vector lanes; every score is one chain of
// multiply-adds over head_dim, every output one chain over keys, in an order that the sequence's length alone decides.
#include "kernels/ops/encoder_kernels.h"

namespace tripos {
namespace {

constexpr float kNoScore = -__builtin_inff();
#if defined(__AVX512F__)
constexpr int kOutputVecs = 2;  // 8 rows x 2 vectors of columns in 16 accumulators
constexpr int kRowsAtOnce = kSelfAttentionRows;
#else
constexpr int kOutputVecs = 2;
constexpr int kRowsAtOnce = 4;  // 4 x 2 accumulators: there are 16 registers
#endif

struct Span {
  int low, high;  // keys [low, high)
};

inline Span KeysOf(const SelfAttentionArgs& args, int query) {
  const int low = args.left < 0 || args.left > query ? 0 : query - args.left;
  const int rest = args.num_tokens - query - 1;
  return {low, args.right < 0 || args.right > rest ? args.num_tokens : query + args.right + 1};
}

// k [num_tokens, head_dim] as [head_dim][padded], zeros behind the last token.
inline void TransposeKeys(const SelfAttentionArgs& args, int padded, float* keys) {
  for (int d = 0; d < args.head_dim; ++d) {
    float* row = keys + static_cast<size_t>(d) * static_cast<size_t>(padded);
    for (int i = args.num_tokens; i < padded; ++i) row[i] = 0.0f;
  }
  for (int i = 0; i < args.num_tokens; ++i) {
    const float* k = args.k + static_cast<size_t>(i) * args.k_stride;
    float* column = keys + i;
    for (int d = 0; d < args.head_dim; ++d) column[static_cast<size_t>(d) * static_cast<size_t>(padded)] = k[d];
  }
}

// Scores of kRows queries with the keys [low, high), whole vectors of them.
template <int kRows>
inline void ScoreKeys(const float* const* q, const float* keys, int padded, int head_dim, Span span, float* scores) {
  for (int key = span.low; key < span.high; key += kLanes) {
    Vec sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = Set(0.0f);
    const float* k = keys + key;
    for (int d = 0; d < head_dim; ++d, k += padded) {
      const Vec lane = Load(k);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r] = Fma(Set(q[r][d]), lane, sum[r]);
    }
    for (int r = 0; r < kRows; ++r) Store(scores + r * padded + key, sum[r]);
  }
}

// A row's scores become weights that add up to the result; keys outside `seen` weigh nothing.
inline float Weigh(float* scores, Span span, Span seen, float scale) {
  const Vec factor = Set(scale), none = Set(kNoScore);
  Vec largest = none;
  for (int key = span.low; key < span.high; key += kLanes) {
    Vec s = Mul(Load(scores + key), factor);
    if (key < seen.low || key + kLanes > seen.high) {
      const Vec lane = Add(Ramp(), Set(static_cast<float>(key)));
      s = Select(Less(lane, Set(static_cast<float>(seen.low))), none, s);
      s = Select(Less(lane, Set(static_cast<float>(seen.high))), s, none);
    }
    Store(scores + key, s);
    largest = Max(largest, s);
  }
  const Vec peak = Set(MaxLanes(largest));
  Vec sum = Set(0.0f);
  for (int key = span.low; key < span.high; key += kLanes) {
    const Vec p = Exp(Sub(Load(scores + key), peak));
    sum = Add(sum, p);
    Store(scores + key, p);
  }
  return SumLanes(sum);
}

// kVecs vectors of columns of weights · V for kRows queries.
template <int kRows, int kVecs>
inline void MixValues(const SelfAttentionArgs& args, const float* weights, int padded, Span span, const float* sums,
                      int column, float* const* out) {
  Vec mixed[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVecs; ++c) mixed[r][c] = Set(0.0f);
  }
  const int rest = args.head_dim - column;  // only a single vector may be partial
  const bool is_whole = rest >= kLanes;
  const float* v = args.v + static_cast<size_t>(span.low) * args.v_stride + column;
  for (int key = span.low; key < span.high; ++key, v += args.v_stride) {
    Vec value[kVecs];
    for (int c = 0; c < kVecs; ++c) value[c] = is_whole ? Load(v + c * kLanes) : LoadN(v, rest);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = Set(weights[r * padded + key]);
      for (int c = 0; c < kVecs; ++c) mixed[r][c] = Fma(weight, value[c], mixed[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const Vec inverse = Set(1.0f / sums[r]);
    for (int c = 0; c < kVecs; ++c) {
      const Vec y = Mul(mixed[r][c], inverse);
      if (is_whole) {
        Store(out[r] + column + c * kLanes, y);
      } else {
        StoreN(out[r] + column, y, rest);
      }
    }
  }
}

template <int kRows>
inline void AttendRows(const SelfAttentionArgs& args, int head, int first, const float* keys, int padded, float* scores) {
  const float* q[kRows];
  float* out[kRows];
  float sums[kRows];
  const size_t at = static_cast<size_t>(head) * static_cast<size_t>(args.head_dim);
  for (int r = 0; r < kRows; ++r) {
    q[r] = args.q + static_cast<size_t>(first + r) * args.q_stride + at;
    out[r] = args.out + static_cast<size_t>(first + r) * args.out_stride + at;
  }
  const Span seen{KeysOf(args, first).low, KeysOf(args, first + kRows - 1).high};
  const Span span{seen.low / kLanes * kLanes, (seen.high + kLanes - 1) / kLanes * kLanes};
  ScoreKeys<kRows>(q, keys, padded, args.head_dim, span, scores);
  for (int r = 0; r < kRows; ++r) sums[r] = Weigh(scores + r * padded, span, KeysOf(args, first + r), args.scale);
  int column = 0;
  for (; column + kOutputVecs * kLanes <= args.head_dim; column += kOutputVecs * kLanes) {
    MixValues<kRows, kOutputVecs>(args, scores, padded, seen, sums, column, out);
  }
  for (; column < args.head_dim; column += kLanes) MixValues<kRows, 1>(args, scores, padded, seen, sums, column, out);
}

void SelfAttend(const SelfAttentionArgs& args, float* scratch) {
  const int padded = (args.num_tokens + kLanes - 1) / kLanes * kLanes;
  float* keys = scratch;
  float* scores = keys + static_cast<size_t>(args.head_dim) * static_cast<size_t>(padded);
  TransposeKeys(args, padded, keys);
  for (int head = 0; head < args.num_heads; ++head) {
    int row = 0;
    for (; row + kRowsAtOnce <= args.num_tokens; row += kRowsAtOnce) {
      AttendRows<kRowsAtOnce>(args, head, row, keys, padded, scores);
    }
    for (; row + 2 <= args.num_tokens; row += 2) AttendRows<2>(args, head, row, keys, padded, scores);
    if (row < args.num_tokens) AttendRows<1>(args, head, row, keys, padded, scores);
  }
}

void Mean(const float* x, size_t stride, int num_rows, int cols, float* y) {
  const Vec share = Set(1.0f / static_cast<float>(num_rows));
  for (int i = 0; i < cols; i += kLanes) {
    const int lanes = cols - i < kLanes ? cols - i : kLanes;
    Vec sum = Set(0.0f);
    for (int row = 0; row < num_rows; ++row) sum = Add(sum, LoadN(x + static_cast<size_t>(row) * stride + i, lanes));
    StoreN(y + i, Mul(sum, share), lanes);
  }
}

}  // namespace
}  // namespace tripos
