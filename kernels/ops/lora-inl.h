// The text of the adapter kernels, compiled once per instruction set. Needs simd-inl.h.
#include "kernels/ops/lora.h"

namespace tripos::lora {
namespace {

constexpr int kPasses = kPanel / kLanes;
constexpr int kChains = 4;  // partial sums along k of each output, so that additions need not wait for each other
constexpr int kTileRows = ByLanes(4, 2, 2);

inline Vec LoadWeights(const float* p) { return Load(p); }
inline Vec LoadWeights(const uint16_t* p) { return LoadBf16(p); }

// Chain c sums k = c, c + 4, c + 8 ...; the rest of k goes to the first chains. Then (0 + 1) + (2 + 3).
template <typename T, int kRows>
inline void ShrinkTile(const T* panel, float scale, int64_t k, const Rows& rows, int first) {
  for (int pass = 0; pass < kPasses; ++pass) {
    Vec sum[kRows][kChains];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kChains; ++c) sum[r][c] = Set(0.0f);
    }
    const T* w = panel + pass * kLanes;
    int64_t i = 0;
    for (; i + kChains <= k; i += kChains, w += kChains * kPanel) {
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) {
        const Vec weights = LoadWeights(w + c * kPanel);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[r][c] = Fma(Set(rows.in[first + r][i + c]), weights, sum[r][c]);
      }
    }
    for (int c = 0; i + c < k; ++c) {
      const Vec weights = LoadWeights(w + c * kPanel);
      for (int r = 0; r < kRows; ++r) sum[r][c] = Fma(Set(rows.in[first + r][i + c]), weights, sum[r][c]);
    }
    for (int r = 0; r < kRows; ++r) {
      const Vec total = Add(Add(sum[r][0], sum[r][1]), Add(sum[r][2], sum[r][3]));
      Store(rows.out[first + r] + pass * kLanes, Mul(total, Set(scale)));
    }
  }
}

template <typename T, int kRows>
inline void ExpandTile(const Blocks& blocks, int64_t num_halves, const Rows& rows, int first) {
  for (int64_t half = 0; half < num_halves; ++half) {
    for (int pass = 0; pass < kPasses; ++pass) {
      Vec sum[kRows];
      for (int r = 0; r < kRows; ++r) sum[r] = Set(0.0f);
      for (size_t i = blocks.first[half]; i < blocks.first[half + 1]; ++i) {
        const ExpandBlock& block = blocks.blocks[i];
        const T* w = reinterpret_cast<const T*>(block.data) + pass * kLanes;
        for (int k = 0; k < block.rank; ++k, w += kPanel) {
          const Vec weights = LoadWeights(w);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) sum[r] = Fma(Set(rows.in[first + r][block.first_col + k]), weights, sum[r]);
        }
      }
      for (int r = 0; r < kRows; ++r) Store(rows.out[first + r] + half * kPanel + pass * kLanes, sum[r]);
    }
  }
}

template <typename T>
void ShrinkRows(const ShrinkPanel& panel, int64_t k, const Rows& rows) {
  const T* data = reinterpret_cast<const T*>(panel.data);
  int r = 0;
  for (; r + kTileRows <= rows.count; r += kTileRows) ShrinkTile<T, kTileRows>(data, panel.scale, k, rows, r);
  for (; r < rows.count; ++r) ShrinkTile<T, 1>(data, panel.scale, k, rows, r);
}

template <typename T>
void ExpandRows(const Blocks& blocks, int64_t num_halves, const Rows& rows) {
  int r = 0;
  for (; r + kTileRows <= rows.count; r += kTileRows) ExpandTile<T, kTileRows>(blocks, num_halves, rows, r);
  for (; r < rows.count; ++r) ExpandTile<T, 1>(blocks, num_halves, rows, r);
}

void Shrink(Type type, const ShrinkPanel& panel, int64_t k, const Rows& rows) {
  type == Type::kF32 ? ShrinkRows<float>(panel, k, rows) : ShrinkRows<uint16_t>(panel, k, rows);
}

void Expand(Type type, const Blocks& blocks, int64_t num_halves, const Rows& rows) {
  type == Type::kF32 ? ExpandRows<float>(blocks, num_halves, rows) : ExpandRows<uint16_t>(blocks, num_halves, rows);
}

}  // namespace
}  // namespace tripos::lora
