// Attention over the int8 cache in integer arithmetic. Needs simd-inl.h and attention-inl.h.
//
// A query is quantized to int8 once per tile; its scores are exact int32 dot products. The softmax weights, times the
// scale of each value row, are quantized to bytes with one scale per run of 32 keys and multiplied with V in int32;
// runs are added up in float, in order of position. Runs lie at fixed positions and scores are exact, so a query's
// arithmetic is the same in decode, in a chunk of any size and in any batch.
//
// K lies in tiles of 16 keys: for each four dims 16 x 4 bytes, k + 128. V in quads of keys: for each dim 4 bytes.
#include <utility>

#include "kernels/ops/op_kernels.h"

namespace tripos {
namespace {

#if defined(__AVX512VNNI__)

using Ints = __m512i;
constexpr int32_t kKeyBias = 128;  // what DotKeys adds to each k
constexpr float kWeightLevels = 255.0f;
constexpr int kMaxKeyRows = 8;
constexpr int kMaxValueRows = 6;

inline Ints SetInts(int32_t x) { return _mm512_set1_epi32(x); }
inline Ints LoadInts(const uint8_t* p) { return _mm512_loadu_si512(p); }
// Not the intrinsic: gcc 12 copies every accumulator around it.
inline Ints Dot(Ints sum, Ints bytes, Ints signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(signed_bytes));
  return sum;
}
inline Ints DotKeys(Ints sum, Ints keys, int32_t query) { return Dot(sum, keys, SetInts(query)); }
inline Ints DotValues(Ints sum, int32_t weights, Ints values) { return Dot(sum, SetInts(weights), values); }
inline Vec ToFloats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline void StoreInt8(int8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
inline void StoreUint8(uint8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(x)));
}
inline Vec TimesPowerOfTwo(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }  // 0 for n as low as -1e30

#elif defined(__AVX2__)

using Ints = __m256i;
constexpr int32_t kKeyBias = 0;
constexpr float kWeightLevels = 127.0f;  // two products of a byte of weight and one of V fit 16 bits
constexpr int kMaxKeyRows = 4;
constexpr int kMaxValueRows = 2;

inline Ints SetInts(int32_t x) { return _mm256_set1_epi32(x); }
inline Ints LoadInts(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Ints DotValues(Ints sum, int32_t weights, Ints values) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(SetInts(weights), values), _mm256_set1_epi16(1)));
}
inline Ints DotKeys(Ints sum, Ints keys, int32_t query) {
  const Ints k = _mm256_xor_si256(keys, _mm256_set1_epi8(-128)), q = SetInts(query);
  const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(k, q));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Vec ToFloats(Ints x) { return _mm256_cvtepi32_ps(x); }
inline void StoreInt8(int8_t* p, Vec x) {
  const Ints i = _mm256_cvtps_epi32(x);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
inline void StoreUint8(uint8_t* p, Vec x) { StoreInt8(reinterpret_cast<int8_t*>(p), x); }  // at most kWeightLevels
// Zero where n is below -126.
inline Vec TimesPowerOfTwo(Vec x, Vec n) {
  const Vec low = Set(-126.0f);
  return Select(Less(n, low), Set(0.0f), Mul(x, PowerOfTwo(Max(low, n))));
}

#else

using Ints = int32_t __attribute__((vector_size(16)));
constexpr int32_t kKeyBias = 128;
constexpr float kWeightLevels = 255.0f;
constexpr int kMaxKeyRows = 4;
constexpr int kMaxValueRows = 2;

inline Ints SetInts(int32_t x) { return Ints{x, x, x, x}; }
inline Ints LoadInts(const uint8_t* p) {
  Ints v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
// Byte j of every lane, as unsigned and as signed.
inline Ints UnsignedByte(Ints x, int j) { return (x >> (8 * j)) & 255; }
inline Ints SignedByte(Ints x, int j) { return (UnsignedByte(x, j) ^ 128) - 128; }
inline Ints DotKeys(Ints sum, Ints keys, int32_t query) {
  for (int j = 0; j < 4; ++j) sum += UnsignedByte(keys, j) * SignedByte(SetInts(query), j);
  return sum;
}
inline Ints DotValues(Ints sum, int32_t weights, Ints values) {
  for (int j = 0; j < 4; ++j) sum += UnsignedByte(SetInts(weights), j) * SignedByte(values, j);
  return sum;
}
inline Vec ToFloats(Ints x) { return __builtin_convertvector(x, Vec); }
inline void StoreInt8(int8_t* p, Vec x) {
  const Vec rounded = Round(x);
  for (int i = 0; i < kLanes; ++i) p[i] = rounded[i] >= -127.0f && rounded[i] <= 127.0f ? static_cast<int8_t>(rounded[i]) : int8_t{0};
}
inline void StoreUint8(uint8_t* p, Vec x) {
  const Vec rounded = Round(x);
  for (int i = 0; i < kLanes; ++i) p[i] = rounded[i] >= 0.0f && rounded[i] <= 255.0f ? static_cast<uint8_t>(rounded[i]) : uint8_t{0};
}
inline Vec TimesPowerOfTwo(Vec x, Vec n) {
  const Vec low = Set(-126.0f);
  return Select(Less(n, low), Set(0.0f), Mul(x, PowerOfTwo(Max(low, n))));
}

#endif

constexpr int kWeightRun = 32;      // keys whose weights share a scale
constexpr int kRuns = kPartition / kWeightRun;
constexpr int kKeyTile = 16;  // keys that lie together
constexpr int kKeyTiles = kPartition / kKeyTile;
constexpr int kStreamRows = 4;  // so few rows, as in decode, wait for memory; more find in L2 what the tile before has read
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kMasked = -1e30f;  // a score that weighs exactly 0, and finite, so that it may be subtracted from itself

// The largest lane of each of kRuns vectors.
inline void MaxEach(const Vec (&v)[kRuns], float* out) {
#if defined(__AVX512F__)
  static_assert(kRuns == 16);
  const auto fold = [](Vec low, Vec high) { return _mm512_max_ps(low, high); };
  Vec quad[4];
  for (int i = 0; i < 4; ++i) {  // four vectors each, one per lane of every 128 bits
    const Vec* x = v + 4 * i;
    const Vec a = fold(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const Vec b = fold(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    quad[i] = fold(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)), _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }
  const Vec low = fold(_mm512_shuffle_f32x4(quad[0], quad[1], 0x88), _mm512_shuffle_f32x4(quad[0], quad[1], 0xdd));
  const Vec high = fold(_mm512_shuffle_f32x4(quad[2], quad[3], 0x88), _mm512_shuffle_f32x4(quad[2], quad[3], 0xdd));
  Store(out, fold(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd)));
#else
  for (int i = 0; i < kRuns; ++i) out[i] = MaxLanes(v[i]);
#endif
}

// 2^x within 3e-6, far below a byte's rounding.
inline Vec Exp2(Vec x) {
  if constexpr (kLanes < 16) x = Max(Set(-1e4f), x);  // in this order NaN stays NaN
  const Vec n = Round(x);
  const Vec r = Sub(x, n);
  Vec p = Set(9.570096670e-03f);
  p = Fma(p, r, Set(5.591785991e-02f));
  p = Fma(p, r, Set(2.402474496e-01f));
  p = Fma(p, r, Set(6.931218148e-01f));
  p = Fma(p, r, Set(9.999992614e-01f));
  return TimesPowerOfTwo(p, n);
}

// Symmetric int8 of one head's row; the rest up to a whole vector becomes 0. Returns the scale, largest magnitude / 127,
// or infinity for a row with NaN or infinity: it must stay poisoned, so that its request fails and answers no nonsense.
// `total`: the sum of the bytes.
inline float QuantizeHead(const float* x, int n, int8_t* out, float* total) {
  Vec largest = Set(0.0f), poison = Set(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = LoadN(x + i, n - i < kLanes ? n - i : kLanes);
    largest = Max(largest, Abs(v));
    poison = Fma(v, Set(0.0f), poison);
  }
  const float peak = MaxLanes(largest);
  const Vec inverse = Set(peak > 1e-30f ? 127.0f / peak : 0.0f);
  Vec sum = Set(0.0f);  // of integers, so exact
  for (int i = 0; i < n; i += kLanes) {
    const Vec v = Round(Mul(LoadN(x + i, n - i < kLanes ? n - i : kLanes), inverse));
    StoreInt8(out + i, v);
    sum = Add(sum, v);
  }
  *total = SumLanes(sum);
  return SumLanes(poison) == 0.0f ? peak / 127.0f : -kMinusInfinity;
}

struct Int8Tile {
  Int8Tile(const KvLayout& kv, const AttentionTile& queries, int index, float* memory)
      : view{kv, queries, index}, dim(kv.padded_dim), quads((kv.head_dim + 3) / 4) {
    scores = memory;
    weights = reinterpret_cast<uint8_t*>(scores + kTileRows * kPartition);
    run_scales = scores + kTileRows * (kPartition + kPartition / 4);
    scale = run_scales + kTileRows * kRuns;
    bias = reinterpret_cast<int32_t*>(scale + kTileRows);
    query = reinterpret_cast<int8_t*>(bias + kTileRows);
  }

  // Where each tile of 16 keys of [low, high) lies.
  void Locate(int low, int high) {
    const int size = view.layout.block_size;
    for (int key = low; key < high; key += kKeyTile) {
      const uint8_t* chunk = view.Chunk(key);
      const int at = key % size, index = key / kKeyTile;
      keys[index] = chunk + static_cast<size_t>(at) * static_cast<size_t>(quads) * 4;
      values[index] = chunk + view.layout.v_offset + static_cast<size_t>(at) * static_cast<size_t>(dim);
      scales[index] = reinterpret_cast<const float*>(chunk + view.layout.scale_offset) + at;
    }
    Foresee((high - low + kKeyTile - 1) / kKeyTile, low / kKeyTile);
  }

  // Pairs each tile of keys and then of values with as much of what is read next, in the order of memory.
  void Foresee(int num_tiles, int first) {
    const KvLayout& kv = view.layout;
    const NextBlocks& following = view.tile.next;
    const int halves = kv.block_size / kKeyTile, num_next = following.count * 2 * halves;
    const uint8_t* chunk = nullptr;
    for (int i = 0; i < 2 * num_tiles; ++i) {
      const int at = i < num_tiles ? first + i : kKeyTiles + first + i - num_tiles;
      if (i >= num_next) {
        next[at] = i < num_tiles ? keys[at] : values[at - kKeyTiles];
        continue;
      }
      const int part = i % (2 * halves);
      if (part == 0) {
        chunk = following.chunks + static_cast<size_t>(following.table[i / (2 * halves)]) * kv.block_bytes();
        for (size_t line = kv.scale_offset; line < kv.chunk_bytes; line += 64) __builtin_prefetch(chunk + line, 0, 2);
      }
      next[at] = part < halves ? chunk + static_cast<size_t>(part * quads) * kKeyTile * 4
                               : chunk + kv.v_offset + static_cast<size_t>((part - halves) * dim) * kKeyTile;
    }
  }

  void QuantizeQueries(int num_rows) {
    for (int row = 0; row < num_rows; ++row) {
      int8_t* q = query + row * dim;
      float sum;
      const float q_scale = QuantizeHead(view.Query(row), view.layout.head_dim, q, &sum);
      scale[row] = q_scale * view.tile.scale * (view.tile.softcap > 0.0f ? 1.0f : kLog2E);
      const bool is_finite = sum - sum == 0.0f;  // else the scale is infinite, and the row fails
      bias[row] = is_finite ? -kKeyBias * static_cast<int32_t>(sum) : 0;
    }
  }

  const TileView view;
  const int dim, quads;  // padded columns; fours of dims
  float* scores;         // [kTileRows, kPartition]
  uint8_t* weights;      // [kTileRows, kPartition]
  float* run_scales;     // [kTileRows, kPartition / kWeightRun]
  float* scale;          // [kTileRows], of the queries, with the scale of the scores
  int32_t* bias;         // [kTileRows]
  int8_t* query;         // [kTileRows, dim]
  const uint8_t* keys[kKeyTiles];
  const uint8_t* values[kKeyTiles];
  const uint8_t* next[2 * kKeyTiles];  // with each tile of keys, then of values
  const float* scales[kKeyTiles];  // of K; those of V are block_size further
};

inline int32_t LoadQuad(const void* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof quad);
  return quad;
}

// Scores of kRows rows with kVecs * kLanes keys.
template <int kRows, int kVecs>
inline void KeyScores(const Int8Tile& t, int row, int key) {
  const uint8_t* k[kVecs];
  const uint8_t* next[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    const int at = key + v * kLanes;
    k[v] = t.keys[at / kKeyTile] + at % kKeyTile * 4;
    next[v] = t.next[at / kKeyTile] + at % kKeyTile * 4;
  }
  Ints sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) sum[r][v] = SetInts(t.bias[row + r]);
  }
  const int8_t* q = t.query + row * t.dim;
  for (int i = 0; i < t.quads; ++i) {
    Ints x[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      x[v] = LoadInts(k[v] + i * kKeyTile * 4);
      if constexpr (kRows <= kStreamRows) __builtin_prefetch(next[v] + i * kKeyTile * 4, 0, 2);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const int32_t quad = LoadQuad(q + r * t.dim + 4 * i);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = DotKeys(sum[r][v], x[v], quad);
    }
  }
  for (int v = 0; v < kVecs; ++v) {
    const int at = key + v * kLanes;
    const Vec scale = Load(t.scales[at / kKeyTile] + at % kKeyTile);
    for (int r = 0; r < kRows; ++r) {
      Store(t.scores + (row + r) * kPartition + at, Mul(Mul(ToFloats(sum[r][v]), scale), Set(t.scale[row + r])));
    }
  }
}

template <int kRows>
void KeyScoresOf(const Int8Tile& t, int row, int low, int high) {
  constexpr int kVecs = kLanes == 16 && kRows <= 4 ? 4 : 2;  // enough chains to hide the latency of a product
  int key = low;
  for (; key + kVecs * kLanes <= high; key += kVecs * kLanes) KeyScores<kRows, kVecs>(t, row, key);
  for (; key < high; key += kLanes) KeyScores<kRows, 1>(t, row, key);
}

// Scores, those that a row does not see masked.
inline Vec Masked(Vec s, int key, Visible visible) {
  const Vec lane = Add(Ramp(), Set(static_cast<float>(key)));
  s = Select(Less(lane, Set(static_cast<float>(visible.low))), Set(kMasked), s);
  return Select(Less(lane, Set(static_cast<float>(visible.high))), s, Set(kMasked));
}

// One run's weights, times the scales of V, in place of its scores, and the largest of each lane; returns the sum of
// exp(score - peak) so far.
template <bool kIsInside>
inline Vec WeighRun(const Int8Tile& t, float* scores, int run, int end, Vec peak, Vec sum, Vec* largest) {
  Vec top = Set(0.0f);
#pragma GCC unroll 8
  for (int v = 0; v < kWeightRun / kLanes; ++v) {
    const int key = run + v * kLanes;
    if (!kIsInside && key >= end) {
      Store(scores + key, Set(0.0f));
      continue;
    }
    const Vec p = Exp2(Sub(Load(scores + key), peak));
    sum = Add(sum, p);
    Vec w = Mul(p, Load(t.scales[key / kKeyTile] + t.view.layout.block_size + key % kKeyTile));
    // Slots that this row does not see may hold anything: weight 0 must stay 0.
    if constexpr (!kIsInside) w = Select(Less(Set(0.0f), p), w, Set(0.0f));
    top = Max(top, w);
    Store(scores + key, w);
  }
  *largest = top;
  return sum;
}

// Turns a row's scores over [low, high) into bytes and their scales. low: a multiple of kWeightRun; high: of kKeyTile.
void Weigh(const Int8Tile& t, int row, int low, int high, const Partial& out) {
  const Visible visible = t.view.Of(row);
  float* scores = t.scores + row * kPartition;
  const float softcap = t.view.tile.softcap;
  Vec largest = Set(kMasked);
  for (int key = low; key < high; key += kLanes) {
    Vec s = Load(scores + key);
    const bool is_edge = key < visible.low || key + kLanes > visible.high;
    if (softcap > 0.0f) s = Mul(Set(softcap * kLog2E), Tanh(Div(s, Set(softcap))));
    if (is_edge) s = Masked(s, key, visible);
    if (is_edge || softcap > 0.0f) Store(scores + key, s);
    largest = Max(s, largest);
  }
  const bool sees_any = visible.low < visible.high;
  const float peak = sees_any ? MaxLanes(largest) : 0.0f;
  Vec sum = Set(0.0f);
  Vec largest_of[kRuns];  // by run; reduced together, since one at a time they are a long chain of latencies
  for (Vec& each : largest_of) each = Set(0.0f);
  for (int run = low; run < high; run += kWeightRun) {
    const int end = run + kWeightRun < high ? run + kWeightRun : high;
    const bool is_inside = run >= visible.low && run + kWeightRun <= visible.high;
    Vec* top = largest_of + run / kWeightRun;
    sum = is_inside ? WeighRun<true>(t, scores, run, end, Set(peak), sum, top) : WeighRun<false>(t, scores, run, end, Set(peak), sum, top);
  }
  alignas(64) float inverse[kRuns];
  MaxEach(largest_of, inverse);
  for (int i = 0; i < kRuns; i += kLanes) {
    const Vec scale = Load(inverse + i);
    const Mask has_weight = Less(Set(1e-30f), scale);
    Store(t.run_scales + row * kRuns + i, Select(has_weight, Mul(scale, Set(1.0f / kWeightLevels)), Set(0.0f)));
    Store(inverse + i, Select(has_weight, Div(Set(kWeightLevels), scale), Set(0.0f)));
  }
  uint8_t* bytes = t.weights + row * kPartition;
  for (int run = low; run < high; run += kWeightRun) {
    const Vec factor = Set(inverse[run / kWeightRun]);
#pragma GCC unroll 8
    for (int key = run; key < run + kWeightRun; key += kLanes) StoreUint8(bytes + key, Mul(Load(scores + key), factor));
  }
  out.largest[row] = sees_any ? peak * kLn2 : kMinusInfinity;
  out.sum[row] = SumLanes(sum);
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
    const int end = run + kWeightRun < high ? run + kWeightRun : high;
    for (int tile = run; tile < end; tile += kKeyTile) {
      const uint8_t* v = t.values[tile / kKeyTile] + column * 4;
      const uint8_t* next = t.next[kKeyTiles + tile / kKeyTile] + column * 4;
      const uint8_t* w = t.weights + row * kPartition + tile;
      for (int quad = 0; quad < kKeyTile / 4; ++quad, v += t.dim * 4, next += t.dim * 4, w += 4) {
        Ints x[kVecs];
        for (int c = 0; c < kVecs; ++c) {
          x[c] = LoadInts(v + c * kLanes * 4);
          if constexpr (kRows <= kStreamRows) __builtin_prefetch(next + c * kLanes * 4, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const int32_t weights = LoadQuad(w + r * kPartition);
          for (int c = 0; c < kVecs; ++c) sum[r][c] = DotValues(sum[r][c], weights, x[c]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec scale = Set(t.run_scales[(row + r) * kRuns + run / kWeightRun]);
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
void AllKeyScores(const Int8Tile& t, int num_rows, int low, int high, std::integer_sequence<int, kIndex...>) {
  static constexpr void (*kByRows[])(const Int8Tile&, int, int, int) = {KeyScoresOf<kIndex + 1>...};
  const int parts = (num_rows + kMaxKeyRows - 1) / kMaxKeyRows;  // of equal height, give or take a row
  for (int i = 0; i < parts; ++i) {
    const int row = num_rows * i / parts;
    kByRows[num_rows * (i + 1) / parts - row - 1](t, row, low, high);
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
  const int low = first.low / kWeightRun * kWeightRun, high = (last.high + kKeyTile - 1) / kKeyTile * kKeyTile;
  t.Locate(low, high);
  t.QuantizeQueries(num_rows);
  AllKeyScores(t, num_rows, low, high, std::make_integer_sequence<int, kMaxKeyRows>());
  for (int row = 0; row < num_rows; ++row) Weigh(t, row, low, high, out);
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
