// Tiles from L1, multiplied as fast as AMX can: blocks of two by two, of whose four operands three are loaded anew in each
// round. A fourth load, which a product of long rows needs, costs a fifth of the speed (5.6 for 6.8 TOP/s of int8 on one
// core of a Xeon): this is what the multiplier can do at most, not what a kernel will.
// Flags on x86_64: -mavx512f -mamx-tile -mamx-int8 -mamx-bf16
#include <cstdint>
#include <cstring>

#include "kernels/util/peaks.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#include <immintrin.h>

namespace tripos {
namespace {

constexpr int kRounds = 4000;
constexpr int kTileRows = 16, kTileBytes = 1024, kRowBytes = 64;
constexpr int kProducts = 4;  // of a round

struct TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Static, for gcc 12 takes _tile_loadconfig for a read of eight bytes and drops the stores of the others.
alignas(64) constinit const TileConfiguration kWholeTiles;

struct Operands {
  alignas(64) uint8_t tiles[4][kTileBytes];
};

// Bytes of 0x3f are 63, and 0.75 as bf16. The asm: gcc 12 takes _tile_loadd for a read of nothing.
void Fill(Operands& operands) {
  std::memset(&operands, 0x3f, sizeof operands);
  asm volatile("" : "+m"(operands));
}

enum class Type { kInt8, kBf16 };

template <Type type>
void Multiply(const Operands& operands) {
  _tile_loadd(4, operands.tiles[0], kRowBytes);
  _tile_loadd(6, operands.tiles[2], kRowBytes);
  _tile_loadd(7, operands.tiles[3], kRowBytes);
  if constexpr (type == Type::kInt8) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  } else {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// Operations done. The tiles are this thread's only in here.
template <Type type>
int64_t Peak() {
  Operands operands;
  Fill(operands);
  _tile_loadconfig(&kWholeTiles);
  _tile_loadd(5, operands.tiles[1], kRowBytes);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int i = 0; i < kRounds; ++i) Multiply<type>(operands);
  _tile_release();
  constexpr int64_t kDepth = kRowBytes / (type == Type::kInt8 ? 1 : 2);
  return int64_t{2} * kTileRows * kTileRows * kDepth * kProducts * kRounds;
}

}  // namespace

const AmxPeakKernels kAmxPeakKernels = {Peak<Type::kInt8>, Peak<Type::kBf16>};

}  // namespace tripos
#else
namespace tripos {

const AmxPeakKernels kAmxPeakKernels = {nullptr, nullptr};  // the compiler has no AMX

}  // namespace tripos
#endif
