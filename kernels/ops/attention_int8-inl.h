// Attention over the int8 cache in integer arithmetic. Needs simd-inl.h, math-inl.h and
// attention-inl.h.
//
// A query is quantized to int8 once per tile; its products with keys are exact in int32. Each run of 32 keys has a softmax
// of its own: weights times the scale of each value row, as bytes over the run's peak, while the products of the next run
// are computed. When all runs of a partition are known, the peaks become their scales, and sums and int32 products with V
// are added up in float, in order of position. Runs lie at fixed positions and products are exact, so a query's arithmetic
// is the same in decode, in a chunk of any size and in any batch.
//
// K lies in tiles of 16 keys: for each four dims 16 x 4 bytes, k + 128. V in quads of keys: for each dim 4 bytes.
#include <utility>

#include "kernels/ops/attention.h"

namespace tripos {
namespace {

// A weight is a byte of its run's peak.
constexpr float kWeightLevels = kSmallByte, kLogLevels = kSmallByte == 255 ? 7.99435344f : 6.98868469f;
constexpr int kMaxKeyRows = ByLanes(8, 4, 4);
constexpr int kMaxValueRows = ByLanes(6, 2, 2);
constexpr int kWeightRun = 32;      // keys whose weights share a scale
constexpr int kRuns = kPartition / kWeightRun;
constexpr int kKeyTile = 16;  // keys that lie together
constexpr int kKeyTiles = kPartition / kKeyTile;
constexpr int kRunVecs = kWeightRun / kLanes;
constexpr int kStreamRows = 4;  // so few rows, as in decode, wait for memory; more find in L2 what the tile before has read
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kMasked = -1e30f;  // a score that weighs exactly 0,
constexpr float kLeastPeak = -1e29f;  // even where none is seen

// Symmetric int8 of one head's row; the rest up to a whole vector becomes 0. Returns the scale, largest magnitude / 127,
// or infinity for a row with NaN or infinity: it must stay poisoned, so that its request fails and answers no nonsense.
// `total`: the sum of the bytes.
inline float QuantizeHead(const float* x, int n, int8_t* out, float* total) {
  Vec largest = Set(0.0f), poison = Set(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = LoadPart(x + i, n - i);
    largest = Max(largest, Abs(v));
    poison = Fma(v, Set(0.0f), poison);
  }
  const float peak = MaxLanes(largest);
  const Vec inverse = Set(peak > 1e-30f ? 127.0f / peak : 0.0f);
  Vec sum = Set(0.0f);  // of integers, so exact
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = Round(Mul(LoadPart(x + i, n - i), inverse));
    StoreInt8(out + i, v);
    sum = Add(sum, v);
  }
  *total = SumLanes(sum);
  return SumLanes(poison) == 0.0f ? peak / 127.0f : -kMinusInfinity;
}

// All that one call works on. The largest head's fits where the floats of other formats keep their scores.
struct Int8Tile {
  Int8Tile(const KvLayout& kv, const AttentionTile& queries, int index, float* memory)
      : view{kv, queries, index}, dim(kv.padded_dim), quads((kv.head_dim + 3) / 4) {
    weights = reinterpret_cast<uint8_t*>(memory);
    run_sums = memory + kTileRows * kPartition / 4;
    run_scales = run_sums + kMaxKeyRows * kRuns * kLanes;
    scale = run_scales + kTileRows * kRuns;
    bias = reinterpret_cast<int32_t*>(scale + kTileRows);
    query = reinterpret_cast<int8_t*>(bias + kTileRows);
  }

  // Where each tile of 16 keys of [low, high) lies; from `seen` on, where any other does.
  void Locate(int low, int high, int seen) {
    const KvLayout& kv = view.layout;
    for (int key = low; key < seen;) {
      const uint8_t* chunk = view.Chunk(key);
      for (int at = key % kv.block_size; at < kv.block_size && key < seen; at += kKeyTile, key += kKeyTile) {
        const int tile = key / kKeyTile;
        keys[tile] = chunk + static_cast<size_t>(at) * static_cast<size_t>(quads) * 4;
        values[tile] = chunk + kv.v_offset + static_cast<size_t>(at) * static_cast<size_t>(dim);
        scales[tile] = reinterpret_cast<const float*>(chunk + kv.scale_offset) + at;
      }
    }
    for (int tile = (seen + kKeyTile - 1) / kKeyTile; tile < high / kKeyTile; ++tile) {
      keys[tile] = keys[tile - 1];
      values[tile] = values[tile - 1];
      scales[tile] = scales[tile - 1];
    }
  }

  // Pairs each tile of keys and then of values with as much of what is read next, in the order of memory.
  void Foresee(int low, int high, const NextBlocks& following) {
    const KvLayout& kv = view.layout;
    const int first = low / kKeyTile, num_tiles = high / kKeyTile - first, halves = kv.block_size / kKeyTile;
    const auto at = [=](int i) { return i < num_tiles ? first + i : kKeyTiles + first + i - num_tiles; };
    int i = 0;
    for (int block = 0; block < following.count; ++block) {
      const uint8_t* chunk = following.chunks + static_cast<size_t>(following.table[block]) * kv.block_bytes();
      for (size_t line = kv.scale_offset; line < kv.chunk_bytes; line += 64) PrefetchL2(chunk + line);
      for (int half = 0; half < halves && i < 2 * num_tiles; ++half) next[at(i++)] = chunk + static_cast<size_t>(half * quads) * kKeyTile * 4;
      for (int half = 0; half < halves && i < 2 * num_tiles; ++half) next[at(i++)] = chunk + kv.v_offset + static_cast<size_t>(half * dim) * kKeyTile;
    }
    for (; i < 2 * num_tiles; ++i) next[at(i)] = i < num_tiles ? keys[at(i)] : values[at(i) - kKeyTiles];
  }

  void QuantizeQueries(int num_rows) {
    for (int row = 0; row < num_rows; ++row) {
      int8_t* q = query + row * dim;
      float sum;
      const float q_scale = QuantizeHead(view.Query(row), view.layout.head_dim, q, &sum);
      scale[row] = q_scale * view.tile.scale * (view.tile.softcap > 0.0f ? 1.0f : kLog2E);
      const bool is_finite = sum - sum == 0.0f;  // else the scale is infinite, and the row fails
      bias[row] = is_finite ? -kDotBias * static_cast<int32_t>(sum) : 0;
    }
  }

  static constexpr size_t kFloats = kTileRows * (kPartition / 4 + kRuns + 2 + kMaxHeadDim / 4) + kMaxKeyRows * kRuns * kLanes;
  static_assert(kFloats <= kAttendScratchFloats);

  const TileView view;
  const int dim, quads;  // padded columns; fours of dims
  uint8_t* weights;      // [kTileRows, kPartition]
  float* run_sums;       // [kMaxKeyRows, kRuns, kLanes], of the rows that are being weighed
  float* run_scales;     // [kRuns, kTileRows]; until a row's runs are all known, the largest of each
  float* scale;          // [kTileRows], of the queries, with the scale of the scores
  int32_t* bias;         // [kTileRows]
  int8_t* query;         // [kTileRows, dim]
  const uint8_t* keys[kKeyTiles];
  const uint8_t* values[kKeyTiles];
  const uint8_t* next[2 * kKeyTiles];  // with each tile of keys, then of values
  const float* scales[kKeyTiles];  // of K; those of V are block_size further
};

// The tile of keys, and the place in it, of vector `v` of those from `key` on, a multiple of kLanes.
inline size_t TileOf(int key, int v) { return static_cast<unsigned>(key + v * kLanes) / kKeyTile; }
inline size_t InTile(int key, int v) { return static_cast<unsigned>(key + v * kLanes) % kKeyTile; }

// `v`, or `masked` where a row does not see the key.
inline Vec Masked(Vec v, int key, Visible visible, Vec masked) {
  const Vec lane = Add(Ramp(), Set(static_cast<float>(key)));
  v = Select(Less(lane, Set(static_cast<float>(visible.low))), masked, v);
  return Select(Less(lane, Set(static_cast<float>(visible.high))), v, masked);
}

// At least log2 of a scale, by at most 0.09, and at least -64; infinity stays.
inline Vec LogBound(Vec scale) {
  return Max(Fma(ToFloats(BitsOf(scale)), Set(0x1p-23f), Set(-126.913f)), Fma(scale, Set(1e-37f), Set(-64.0f)));
}

// A run of keys whose scores with kRows rows are known, and are being turned into weights.
template <int kRows>
struct ScoredRun {
  alignas(64) float scores[kRows][kWeightRun];
  alignas(64) float value_scales[kWeightRun];
  alignas(64) float peaks[kLanes];  // of the rows: what a score's power of two is taken over
  uint8_t* weights = nullptr;       // of the first row; rows are kPartition apart
  float* sums = nullptr;            // of each lane; rows are kRuns * kLanes apart
};

// One row's weights, as bytes: exp2(score - peak) times the scales of V.
template <int kRows>
inline void WeighRow(const ScoredRun<kRows>& run, int r) {
  const Vec peak = Set(run.peaks[r]);
  Vec sum = Set(0.0f);
#pragma GCC unroll 8
  for (int v = 0; v < kRunVecs; ++v) {
    const Vec p = Exp2(Sub(Load(run.scores[r] + v * kLanes), peak));
    sum = v == 0 ? p : Add(sum, p);
    StoreSmallBytes(run.weights + r * kPartition + v * kLanes, Mul(p, Load(run.value_scales + v * kLanes)));
  }
  Store(run.sums + r * kRuns * kLanes, sum);
}

// Products of kRows queries with kVecs vectors of keys, one four of dims at a time.
template <int kRows, int kVecs>
struct KeyProducts {
  KeyProducts(const Int8Tile& t, int row, int key) : q(t.query + row * t.dim), dim(t.dim) {
    for (int v = 0; v < kVecs; ++v) {
      k[v] = t.keys[TileOf(key, v)] + InTile(key, v) * 4;
      next[v] = t.next[TileOf(key, v)] + InTile(key, v) * 4;
    }
    const int32_t* bias = t.bias + row;
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVecs; ++v) sum[r][v] = SetInts(bias[r]);
    }
  }
  void Add(int quad) {
    Ints x[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      x[v] = LoadInts(k[v] + quad * kKeyTile * 4);
      if constexpr (kRows <= kStreamRows) PrefetchL2(next[v] + quad * kKeyTile * 4);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Ints query = SetInts(LoadQuad(q + r * dim + 4 * quad));
      for (int v = 0; v < kVecs; ++v) sum[r][v] = DotBiased(sum[r][v], x[v], query);
    }
  }

  const int8_t* q;
  const int dim;
  const uint8_t* k[kVecs];
  const uint8_t* next[kVecs];
  Ints sum[kRows][kVecs];
};

// Turns products into scores, and returns through `largest` those of score + log2 of the value's scale, lane by lane.
// kIsWhole: every row sees every key, and scores are not capped.
template <bool kIsWhole, int kRows, int kVecs>
inline void Score(const Int8Tile& t, const KeyProducts<kRows, kVecs>& products, int row, int run, int key,
                  ScoredRun<kRows>& scored, Vec (&largest)[kRows]) {
  const float* query_scale = t.scale + row;
  const float softcap = t.view.tile.softcap;
#pragma GCC unroll 2
  for (int v = 0; v < kVecs; ++v) {
    const int at = key + v * kLanes;
    const float* scales = t.scales[TileOf(key, v)] + InTile(key, v);
    const Vec scale = Load(scales);
    Vec value_scale = Load(scales + t.view.layout.block_size);
    const Vec bound = LogBound(value_scale);
    // A slot that no row sees may hold anything; one that only some see may be poisoned. Their weight 0 must stay 0.
    if constexpr (!kIsWhole) value_scale = Masked(value_scale, at, {0, t.view.Of(row + kRows - 1).high}, Set(0.0f));
    Store(scored.value_scales + at - run, Min(value_scale, Set(3e38f)));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Vec s = Mul(Mul(ToFloats(products.sum[r][v]), scale), Set(query_scale[r]));
      if (!kIsWhole && softcap > 0.0f) s = Mul(Set(softcap * kLog2E), Tanh(Div(s, Set(softcap))));
      Vec x = Add(s, bound);
      if constexpr (!kIsWhole) {
        const Visible visible = t.view.Of(row + r);
        x = Masked(x, at, visible, Set(kMasked));
        s = Masked(s, at, visible, Set(kMasked));
      }
      Store(scored.scores[r] + at - run, s);
      largest[r] = Max(x, largest[r]);
    }
  }
}

// Scores of kRows rows with one run of keys. The run before is turned into weights meanwhile, row by row: one after the
// other, each would wait for the latencies of its own chains.
template <int kRows>
inline void ScoreRun(const Int8Tile& t, int row, int run, int num_pending, ScoredRun<kRows>& scored) {
  constexpr int kVecs = kRunVecs < 2 ? kRunVecs : 2;  // at a time
  const Visible first = t.view.Of(row), last = t.view.Of(row + kRows - 1);
  const bool is_whole = run >= last.low && run + kWeightRun <= first.high && !(t.view.tile.softcap > 0.0f);
  Vec largest[kRows];
  for (Vec& each : largest) each = Set(kMasked);
  int done = 0;
#pragma GCC unroll 1
  for (int key = run; key < run + kWeightRun; key += kVecs * kLanes) {
    KeyProducts<kRows, kVecs> products(t, row, key);
    int quad = 0;
    for (; done < num_pending && quad + 1 < t.quads; ++done, quad += 2) {
      products.Add(quad);
      products.Add(quad + 1);
      WeighRow(scored, done);
    }
    for (; quad < t.quads; ++quad) products.Add(quad);
    for (; done < num_pending; ++done) WeighRow(scored, done);
    if (is_whole) {
      Score<true>(t, products, row, run, key, scored, largest);
    } else {
      Score<false>(t, products, row, run, key, scored, largest);
    }
  }
  const Vec peaks = Max(Set(kLeastPeak), MaxEach<kRows>(largest));
  StoreN(t.run_scales + run / kWeightRun * kTileRows + row, peaks, kRows);
  Store(scored.peaks, Sub(peaks, Set(kLogLevels)));
  scored.weights = t.weights + row * kPartition + run;
  scored.sums = t.run_sums + run / kWeightRun * kLanes;
}

// From what each run knows, the scales of its bytes, and the largest and the sums of kRows rows.
template <int kRows>
void JoinRuns(const Int8Tile& t, int row, int low, int high, const Partial& out) {
  const int first = low / kWeightRun, last = high / kWeightRun;
  float* scales = t.run_scales + row;
  Vec peak = Set(kLeastPeak);
  for (int run = first; run < last; ++run) peak = Max(LoadN(scales + run * kTileRows, kRows), peak);
  for (int run = first; run < last; ++run) {
    const Vec scale = Mul(Exp2(Sub(LoadN(scales + run * kTileRows, kRows), peak)), Set(1.0f / kWeightLevels));
    StoreN(scales + run * kTileRows, scale, kRows);
  }
  StoreN(out.largest + row, Mul(peak, Set(kLn2)), kRows);
  for (int r = 0; r < kRows; ++r) {
    Vec sum = Set(0.0f);
    for (int run = first; run < last; ++run) {
      sum = Fma(Set(scales[run * kTileRows + r]), Load(t.run_sums + (r * kRuns + run) * kLanes), sum);
    }
    out.sum[row + r] = SumLanes(sum);
    const Visible visible = t.view.Of(row + r);
    if (visible.low >= visible.high) out.largest[row + r] = kMinusInfinity;
  }
}

// kRows rows' scores over [low, high) and from them their weights. low and high: multiples of kWeightRun.
template <int kRows>
void WeighRows(const Int8Tile& t, int row, int low, int high, const Partial& out) {
  ScoredRun<kRows> scored;
  for (int run = low; run < high; run += kWeightRun) ScoreRun<kRows>(t, row, run, run > low ? kRows : 0, scored);
  for (int r = 0; r < kRows; ++r) WeighRow(scored, r);
  JoinRuns<kRows>(t, row, low, high, out);
}

// kRows x kVecs * kLanes columns of weights · V.
template <int kRows, int kVecs>
inline void ValueSums(const Int8Tile& t, int row, int low, int high, int column, const Partial& out) {
  Vec total[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVecs; ++c) total[r][c] = Set(0.0f);
  }
  for (int run = low; run < high; run += kWeightRun) {
    Ints sum[kRows][kVecs];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVecs; ++c) sum[r][c] = SetInts(0);
    }
    for (int tile = run; tile < run + kWeightRun; tile += kKeyTile) {
      const uint8_t* v = t.values[tile / kKeyTile] + column * 4;
      const uint8_t* next = t.next[kKeyTiles + tile / kKeyTile] + column * 4;
      const uint8_t* w = t.weights + row * kPartition + tile;
      for (int quad = 0; quad < kKeyTile / 4; ++quad, v += t.dim * 4, next += t.dim * 4, w += 4) {
        Ints x[kVecs];
        for (int c = 0; c < kVecs; ++c) {
          x[c] = LoadInts(v + c * kLanes * 4);
          if constexpr (kRows <= kStreamRows) PrefetchL2(next + c * kLanes * 4);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Ints weights = SetInts(LoadQuad(w + r * kPartition));
          for (int c = 0; c < kVecs; ++c) sum[r][c] = DotSmall(sum[r][c], weights, x[c]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = Set(t.run_scales[run / kWeightRun * kTileRows + row + r]);
      for (int c = 0; c < kVecs; ++c) total[r][c] = Fma(scale, ToFloats(sum[r][c]), total[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVecs; ++c) Store(out.values + (row + r) * t.dim + column + c * kLanes, total[r][c]);
  }
}

template <int kRows>
void ValueSumsOf(const Int8Tile& t, int row, int low, int high, const Partial& out) {
  constexpr int kVecs = kLanes == 16 && kRows <= 3 ? 4 : 2;
  int column = 0;
  for (; column + kVecs * kLanes <= t.dim; column += kVecs * kLanes) ValueSums<kRows, kVecs>(t, row, low, high, column, out);
  for (; column < t.dim; column += kLanes) ValueSums<kRows, 1>(t, row, low, high, column, out);
}

template <int... kIndex>
void AllWeights(const Int8Tile& t, int num_rows, int low, int high, const Partial& out,
                std::integer_sequence<int, kIndex...>) {
  static constexpr void (*kByRows[])(const Int8Tile&, int, int, int, const Partial&) = {WeighRows<kIndex + 1>...};
  const int parts = (num_rows + kMaxKeyRows - 1) / kMaxKeyRows;  // of equal height, give or take a row
  for (int i = 0; i < parts; ++i) {
    const int row = num_rows * i / parts;
    kByRows[num_rows * (i + 1) / parts - row - 1](t, row, low, high, out);
  }
}

template <int... kIndex>
void AllValueSums(const Int8Tile& t, int num_rows, int low, int high, const Partial& out,
                  std::integer_sequence<int, kIndex...>) {
  static constexpr void (*kByRows[])(const Int8Tile&, int, int, int, const Partial&) = {ValueSumsOf<kIndex + 1>...};
  const int parts = (num_rows + kMaxValueRows - 1) / kMaxValueRows;
  for (int i = 0; i < parts; ++i) {
    const int row = num_rows * i / parts;
    kByRows[num_rows * (i + 1) / parts - row - 1](t, row, low, high, out);
  }
}

void AttendInt8(const KvLayout& layout, const AttentionTile& tile, int partition, float* scratch, const Partial& out) {
  Int8Tile t(layout, tile, partition, scratch);
  const int num_rows = tile.num_queries * tile.num_heads;
  const Visible first = t.view.Of(0), last = t.view.Of(num_rows - 1);
  if (first.low >= last.high) {  // the window has left this partition behind
    for (int row = 0; row < num_rows; ++row) out.largest[row] = kMinusInfinity;
    return;
  }
  const int low = first.low / kWeightRun * kWeightRun, high = (last.high + kWeightRun - 1) / kWeightRun * kWeightRun;
  t.Locate(low, high, last.high);
  t.Foresee(low, high, num_rows <= kStreamRows ? tile.next : NextBlocks{});
  t.QuantizeQueries(num_rows);
  AllWeights(t, num_rows, low, high, out, std::make_integer_sequence<int, kMaxKeyRows>());
  AllValueSums(t, num_rows, low, high, out, std::make_integer_sequence<int, kMaxValueRows>());
}

// One head's k and v into slot `at` of its block's chunk.
void WriteKvInt8(const KvLayout& layout, uint8_t* chunk, int at, const float* k, const float* v) {
  const int dim = layout.head_dim, quads = (dim + 3) / 4;
  float* scales = reinterpret_cast<float*>(chunk + layout.scale_offset);
  alignas(64) int8_t row[kMaxHeadDim];
  float sum;
  scales[at] = QuantizeHead(k, dim, row, &sum);
  uint8_t* k_out = chunk + at / kKeyTile * (kKeyTile * 4) * quads + at % kKeyTile * 4;
  for (int i = 0; i < quads; ++i) {
    const uint32_t quad = static_cast<uint32_t>(LoadQuad(row + 4 * i)) ^ 0x80808080u;  // + 128
    std::memcpy(k_out + i * kKeyTile * 4, &quad, sizeof quad);
  }
  scales[layout.block_size + at] = QuantizeHead(v, dim, row, &sum);
  uint8_t* v_out = chunk + layout.v_offset + at / 4 * 4 * layout.padded_dim + at % 4;
  for (int i = 0; i < dim; ++i) v_out[4 * i] = static_cast<uint8_t>(row[i]);
}

}  // namespace
}  // namespace tripos
