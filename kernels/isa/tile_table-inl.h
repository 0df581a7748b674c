// The kernels over tile registers in one table, compiled for this translation unit's vectors and tiles.
#include "kernels/isa/kernels.h"
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/linear-inl.h"
#include "kernels/ops/tiles-inl.h"
#include "kernels/ops/linear_tiles-inl.h"

namespace tripos {
namespace {

constexpr Kernels TileTable() {
  using linear::FloatTiles, linear::RowFormat, linear::RunTiles, linear::WeightFormat;
  Kernels k;
  k.LinearOf(WeightFormat::kBF16) = {RunTiles<FloatTiles<linear::BF16Loader>>, RowFormat::kBF16};
  k.LinearOf(WeightFormat::kF16) = {RunTiles<FloatTiles<linear::F16Loader>>, RowFormat::kBF16};
  k.LinearOf(WeightFormat::kFp8) = {RunTiles<FloatTiles<linear::Fp8Loader>>, RowFormat::kBF16};
  k.LinearOf(WeightFormat::kInt8) = {linear::RunInt8Tiles, RowFormat::kInt8};
  k.PrepareOf(RowFormat::kBF16) = linear::PrepareBf16;
  return k;
}

}  // namespace
}  // namespace tripos
