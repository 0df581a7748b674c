// Attention over a paged cache of floats, one tile and one key partition at a time. Needs simd-inl.h and
// math-inl.h.
//
// Every score is one chain of fused multiply-adds over head_dim, every output one chain over keys, whatever the tile:
// a query's arithmetic is the same in decode, in a chunk of any size and in any batch.
#include "kernels/ops/attention.h"

namespace tripos {
namespace {

constexpr int kScoreRows = ByLanes(8, 4, 4);  // x 2 vectors of keys
constexpr int kValueRows = 4;
constexpr int kValueVecs = ByLanes(4, 2, 2);  // of columns
constexpr float kMinusInfinity = -__builtin_inff();

inline Vec LoadKv(const float* p) { return Load(p); }
inline Vec LoadKv(const uint16_t* p) { return LoadHalf(p); }

// The keys [low, high) that a tile row sees of the partition, relative to its first key.
struct Visible {
  int low, high;
};

struct TileView {
  const KvLayout& layout;
  const AttentionTile& tile;
  int partition;

  const float* Query(int row) const {
    const int query = row / tile.num_heads, head = row % tile.num_heads;
    return tile.q + static_cast<size_t>(query) * tile.q_stride + static_cast<size_t>(head) * static_cast<size_t>(layout.head_dim);
  }
  Visible Of(int row) const {
    const int position = tile.first_position + row / tile.num_heads - partition * kPartition;
    int low = tile.window > 0 ? position - tile.window + 1 : 0;
    int high = position + 1;
    if (low < 0) low = 0;
    if (low > kPartition) low = kPartition;
    if (high > kPartition) high = kPartition;
    return {low, high < low ? low : high};
  }
  const uint8_t* Chunk(int key) const {
    const int32_t block = tile.block_table[(partition * kPartition + key) / layout.block_size];
    return tile.chunks + static_cast<size_t>(block) * layout.block_bytes();
  }
};

// The cache streams from memory, block by block from anywhere: no hardware prefetcher follows that. So each load is
// paired with a prefetch of the same place in the block that comes next, into L2: L1 has too few miss buffers.
template <int kVecs, typename T>
inline void Prefetch(const T* p) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  for (int i = 0; i < kVecs * kLanes; i += kLine) PrefetchL2(p + i);
}

// kRows dot products with the 2 * kLanes keys at `k` (rows of block_size keys, one per column of the head).
template <int kRows, typename T>
inline void Scores(const float* const* q, const T* k, const T* next, int head_dim, int block_size, float* scores) {
  Vec sum[kRows][2];
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Set(0.0f);
  for (int d = 0; d < head_dim; ++d, k += block_size, next += block_size) {
    Prefetch<2>(next);
    const Vec k0 = LoadKv(k), k1 = LoadKv(k + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec x = Set(q[r][d]);
      sum[r][0] = Fma(x, k0, sum[r][0]);
      sum[r][1] = Fma(x, k1, sum[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    Store(scores + r * kPartition, sum[r][0]);
    Store(scores + r * kPartition + kLanes, sum[r][1]);
  }
}

// One vector of keys, for block sizes that are no multiple of two vectors.
template <typename T>
inline void ScoresNarrow(const float* q, const T* k, int head_dim, int block_size, float* scores) {
  Vec sum = Set(0.0f);
  for (int d = 0; d < head_dim; ++d, k += block_size) sum = Fma(Set(q[d]), LoadKv(k), sum);
  Store(scores, sum);
}

// This and ValueRows are not inlined: one function with the loops of every height ran 3 % slower.
template <int kRows, typename T>
[[gnu::noinline]] void ScoreRows(const TileView& view, int row, int low, int high, float* scores) {
  const int size = view.layout.block_size;
  const float* q[kRows];
  for (int r = 0; r < kRows; ++r) q[r] = view.Query(row + r);
  for (int key = low; key < high;) {
    const T* k = reinterpret_cast<const T*>(view.Chunk(key));
    int at = key % size;
    const int in_block = high - key < size - at ? high - key : size - at;
    const int last = at + in_block;
    // After the last block of keys come the values of the first.
    const T* next = reinterpret_cast<const T*>(key + in_block < high ? view.Chunk(key + in_block)
                                                                     : view.Chunk(low) + view.layout.v_offset);
    for (; at < last;) {
      float* out = scores + row * kPartition + key;
      if (at + 2 * kLanes <= size) {
        Scores<kRows>(q, k + at, next + at, view.layout.head_dim, size, out);
        at += 2 * kLanes;
        key += 2 * kLanes;
      } else {
        for (int r = 0; r < kRows; ++r) ScoresNarrow(q[r], k + at, view.layout.head_dim, size, out + r * kPartition);
        at += kLanes;
        key += kLanes;
      }
    }
  }
}

template <typename T>
void AllScores(const TileView& view, int num_rows, int low, int high, float* scores) {
  int row = 0;
  for (; row + kScoreRows <= num_rows; row += kScoreRows) ScoreRows<kScoreRows, T>(view, row, low, high, scores);
  WithConstant<kScoreRows>(num_rows - row, [&](auto rows) { ScoreRows<rows(), T>(view, row, low, high, scores); });
}

// Scale, softcap and mask a row's scores, then turn them into weights. Returns through `out` the row's maximum and sum.
void Softmax(const TileView& view, int row, int low, int high, float* scores, const Partial& out) {
  const Visible visible = view.Of(row);
  const AttentionTile& tile = view.tile;
  const Vec scale = Set(tile.scale), cap = Set(tile.softcap), minus_infinity = Set(kMinusInfinity);
  Vec largest = minus_infinity;
  for (int key = low; key < high; key += kLanes) {
    Vec s = Load(scores + key);
    s = Mul(s, scale);
    if (tile.softcap > 0.0f) s = Mul(cap, Tanh(Div(s, cap)));
    if (key < visible.low || key + kLanes > visible.high) {
      const Vec lane = Add(Ramp(), Set(static_cast<float>(key)));
      s = Select(Less(lane, Set(static_cast<float>(visible.low))), minus_infinity, s);
      s = Select(Less(lane, Set(static_cast<float>(visible.high))), s, minus_infinity);
    }
    Store(scores + key, s);
    largest = Max(largest, s);
  }
  const float peak = MaxLanes(largest);
  const bool sees_any = visible.low < visible.high;
  Vec sum = Set(0.0f);
  for (int key = low; key < high; key += kLanes) {
    const Vec p = sees_any ? Exp(Sub(Load(scores + key), Set(peak))) : Set(0.0f);
    sum = Add(sum, p);
    Store(scores + key, p);
  }
  out.largest[row] = sees_any ? peak : kMinusInfinity;
  out.sum[row] = SumLanes(sum);
}

// kRows x kVecs columns of weights · V over keys [low, high).
template <int kRows, int kVecs, typename T>
inline void Values(const TileView& view, int low, int high, int column, const float* weights, float* out) {
  const int size = view.layout.block_size, stride = view.layout.padded_dim;
  Vec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVecs; ++c) sum[r][c] = Set(0.0f);
  }
  for (int key = low; key < high;) {
    const int at = key % size;
    const int count = high - key < size - at ? high - key : size - at;
    const T* v = reinterpret_cast<const T*>(view.Chunk(key) + view.layout.v_offset) + static_cast<size_t>(at * stride + column);
    const uint8_t* next_chunk = view.Chunk(key + count < high ? key + count : key) + view.layout.v_offset;
    const T* next = reinterpret_cast<const T*>(next_chunk) + column;
    for (int j = 0; j < count; ++j, v += stride, next += stride) {
      Prefetch<kVecs>(next);
      Vec row[kVecs];
      for (int c = 0; c < kVecs; ++c) row[c] = LoadKv(v + c * kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Vec p = Set(weights[r * kPartition + key + j]);
        for (int c = 0; c < kVecs; ++c) sum[r][c] = Fma(p, row[c], sum[r][c]);
      }
    }
    key += count;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVecs; ++c) Store(out + r * stride + column + c * kLanes, sum[r][c]);
  }
}

template <int kRows, typename T>
[[gnu::noinline]] void ValueRows(const TileView& view, int row, int low, int high, const float* scores, const Partial& out) {
  const int dim = view.layout.padded_dim;
  const float* weights = scores + row * kPartition;
  float* values = out.values + row * dim;
  int column = 0;
  for (; column + kValueVecs * kLanes <= dim; column += kValueVecs * kLanes) {
    Values<kRows, kValueVecs, T>(view, low, high, column, weights, values);
  }
  for (; column < dim; column += kLanes) Values<kRows, 1, T>(view, low, high, column, weights, values);
}

template <typename T>
void AllValues(const TileView& view, int num_rows, int low, int high, const float* scores, const Partial& out) {
  int row = 0;
  for (; row + kValueRows <= num_rows; row += kValueRows) ValueRows<kValueRows, T>(view, row, low, high, scores, out);
  WithConstant<kValueRows>(num_rows - row, [&](auto rows) { ValueRows<rows(), T>(view, row, low, high, scores, out); });
}

template <typename T>
void AttendFloats(const KvLayout& layout, const AttentionTile& tile, int partition, float* scores, const Partial& out) {
  const TileView view{layout, tile, partition};
  const int num_rows = view.tile.num_queries * view.tile.num_heads;
  const Visible first = view.Of(0), last = view.Of(num_rows - 1);
  if (first.low >= last.high) {  // the window has left this partition behind
    for (int row = 0; row < num_rows; ++row) out.largest[row] = kMinusInfinity;
    return;
  }
  const int low = first.low / kLanes * kLanes;  // block_size is a multiple of kLanes
  const int high = (last.high + kLanes - 1) / kLanes * kLanes;
  AllScores<T>(view, num_rows, low, high, scores);
  for (int row = 0; row < num_rows; ++row) Softmax(view, row, low, high, scores + row * kPartition, out);
  AllValues<T>(view, num_rows, first.low, last.high, scores, out);
}

void Merge(const Partial& total, const Partial& next, int num_rows, int padded_dim) {
  for (int row = 0; row < num_rows; ++row) {
    float* a = total.values + row * padded_dim;
    const float* b = next.values + row * padded_dim;
    if (next.largest[row] == kMinusInfinity) continue;
    if (total.largest[row] == kMinusInfinity) {
      total.largest[row] = next.largest[row];
      total.sum[row] = next.sum[row];
      for (int i = 0; i < padded_dim; i += kLanes) Store(a + i, Load(b + i));
      continue;
    }
    const float peak = total.largest[row] > next.largest[row] ? total.largest[row] : next.largest[row];
    const Vec keep = Exp(Set(total.largest[row] - peak)), take = Exp(Set(next.largest[row] - peak));
    float lanes[kLanes];
    Store(lanes, Fma(take, Set(next.sum[row]), Mul(keep, Set(total.sum[row]))));
    total.largest[row] = peak;
    total.sum[row] = lanes[0];
    for (int i = 0; i < padded_dim; i += kLanes) Store(a + i, Fma(take, Load(b + i), Mul(keep, Load(a + i))));
  }
}

void Finish(const AttentionTile& tile, const Partial& total, int head_dim, int padded_dim) {
  for (int row = 0; row < tile.num_queries * tile.num_heads; ++row) {
    const float* values = total.values + row * padded_dim;
    float* out = tile.out + static_cast<size_t>(row / tile.num_heads) * tile.out_stride +
                 static_cast<size_t>(row % tile.num_heads) * static_cast<size_t>(head_dim);
    const Vec inverse = Set(1.0f / total.sum[row]);
    for (int i = 0; i < head_dim; i += kLanes) {
      StorePart(out + i, Mul(Load(values + i), inverse), head_dim - i);
    }
  }
}

}  // namespace
}  // namespace tripos
