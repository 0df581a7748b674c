// Two-dimensional tile registers: eight of up to 16 rows of 64 bytes, loaded from and stored to strided memory, and
// multiplied as small matrices. One interface over Intel AMX (where the flags allow all three parts) and over an
// emulation in plain C++ that gives the same bits on any machine (Intel SDM vol. 2, TDPBSUD, TDPBUSD, TDPBF16PS).
//
// A product is sum[M, N] += a[M, K] · b[K, N]: a holds K values of a row side by side; b holds in row i the values
// 4i .. 4i + 3 (bytes) or 2i, 2i + 1 (bf16) of each of its columns side by side.
#ifndef TRIPOS_KERNELS_OPS_TILES_INL_H_
#define TRIPOS_KERNELS_OPS_TILES_INL_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tripos {
namespace {

inline constexpr int kTileMaxRows = 16;
inline constexpr int kTileRowBytes = 64;

// Rows and bytes per row of each tile register. A thread sets it before it uses tiles, which zeroes them, and releases
// them before it leaves the kernel: tiles in use make context switches dearer and keep a core from sleeping deeply.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void Set(int tile, int num_rows, int num_bytes) {
    rows[tile] = static_cast<uint8_t>(num_rows);
    row_bytes[tile] = static_cast<uint16_t>(num_bytes);
  }
};
static_assert(sizeof(TileConfig) == 64);

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)

inline void TileConfigure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
inline void TileRelease() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
inline void TileZero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
template <int kTile>
inline void TileLoad(const void* p, size_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void TileStore(void* p, size_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
// Signed a, unsigned b; unsigned a, signed b: exact in int32, modulo 2^32.
template <int kSum, int kA, int kB>
inline void TileDotS8U8() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <int kSum, int kA, int kB>
inline void TileDotU8S8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}
template <int kSum, int kA, int kB>
inline void TileDotBF16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
}

#else  // emulated

struct EmulatedTiles {
  TileConfig config;
  alignas(64) uint8_t data[8][kTileMaxRows][kTileRowBytes];
};
inline thread_local EmulatedTiles emulated_tiles;

inline void TileRelease() { emulated_tiles = {}; }
inline void TileConfigure(const TileConfig& config) {
  TileRelease();
  emulated_tiles.config = config;
}
template <int kTile>
inline void TileZero() {
  std::memset(emulated_tiles.data[kTile], 0, sizeof emulated_tiles.data[kTile]);
}
template <int kTile>
inline void TileLoad(const void* p, size_t stride) {
  TileZero<kTile>();
  const TileConfig& config = emulated_tiles.config;
  for (int r = 0; r < config.rows[kTile]; ++r) {
    const uint8_t* row = static_cast<const uint8_t*>(p) + static_cast<size_t>(r) * stride;
    std::memcpy(emulated_tiles.data[kTile][r], row, config.row_bytes[kTile]);
  }
}
template <int kTile>
inline void TileStore(void* p, size_t stride) {
  const TileConfig& config = emulated_tiles.config;
  for (int r = 0; r < config.rows[kTile]; ++r) {
    uint8_t* row = static_cast<uint8_t*>(p) + static_cast<size_t>(r) * stride;
    std::memcpy(row, emulated_tiles.data[kTile][r], config.row_bytes[kTile]);
  }
}

template <typename A, typename B>
inline void EmulatedDotBytes(int sum, int a, int b) {
  EmulatedTiles& t = emulated_tiles;
  for (int m = 0; m < t.config.rows[sum]; ++m) {
    uint32_t row[kTileRowBytes / 4];
    std::memcpy(row, t.data[sum][m], sizeof row);
    for (int k = 0; k < t.config.row_bytes[a]; ++k) {
      const int32_t x = static_cast<A>(t.data[a][m][k]);
      for (int n = 0; n < t.config.row_bytes[sum] / 4; ++n) {
        row[n] += static_cast<uint32_t>(x * static_cast<B>(t.data[b][k / 4][4 * n + k % 4]));
      }
    }
    std::memcpy(t.data[sum][m], row, sizeof row);
  }
}
template <int kSum, int kA, int kB>
inline void TileDotS8U8() {
  EmulatedDotBytes<int8_t, uint8_t>(kSum, kA, kB);
}
template <int kSum, int kA, int kB>
inline void TileDotU8S8() {
  EmulatedDotBytes<uint8_t, int8_t>(kSum, kA, kB);
}

// Subnormal inputs and results count as zero, and every step rounds to nearest even, whatever MXCSR says.
inline float FlushSubnormal(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
inline float EmulatedBF16(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, sizeof half);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return FlushSubnormal(x);
}
// Products of even k and those of odd k are summed apart, in order, then together, then into the sum.
template <int kSum, int kA, int kB>
inline void TileDotBF16() {
  EmulatedTiles& t = emulated_tiles;
  for (int m = 0; m < t.config.rows[kSum]; ++m) {
    for (int n = 0; n < t.config.row_bytes[kSum] / 4; ++n) {
      float parts[2] = {0.0f, 0.0f};
      for (int k = 0; k < t.config.row_bytes[kA] / 2; ++k) {
        const float a = EmulatedBF16(t.data[kA][m] + 2 * k), b = EmulatedBF16(t.data[kB][k / 2] + 4 * n + k % 2 * 2);
        parts[k % 2] = FlushSubnormal(std::fma(a, b, parts[k % 2]));
      }
      float sum;
      std::memcpy(&sum, t.data[kSum][m] + 4 * n, sizeof sum);
      sum = FlushSubnormal(FlushSubnormal(sum) + FlushSubnormal(parts[0] + parts[1]));
      std::memcpy(t.data[kSum][m] + 4 * n, &sum, sizeof sum);
    }
  }
}

#endif

}  // namespace
}  // namespace tripos

#endif  // TRIPOS_KERNELS_OPS_TILES_INL_H_
