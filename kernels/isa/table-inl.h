// All kernels, compiled for this translation unit's instruction set, in one table.
#include "kernels/isa/kernels.h"
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/rows-inl.h"
#include "kernels/ops/linear-inl.h"
#include "kernels/ops/attention-inl.h"
#include "kernels/ops/attention_int8-inl.h"
#include "kernels/ops/write_kv-inl.h"
#include "kernels/ops/encoder-inl.h"
#include "kernels/ops/lora-inl.h"
#include "kernels/ops/sampling-inl.h"
#include "kernels/util/peaks-inl.h"

namespace tripos {
namespace {

constexpr Kernels Table() {
  using linear::RowFormat, linear::WeightFormat;
  Kernels k;
  k.norm = Norm;
  k.rope = Rope;
  k.glu = Glu;
  k.act = Act;
  k.add = AddRows;
  k.scale = ScaleRow;
  k.LinearOf(WeightFormat::kF32) = {linear::RunFormat<linear::FloatKernel<linear::F32Loader>>, RowFormat::kFloat};
  k.LinearOf(WeightFormat::kBF16) = {linear::RunFormat<linear::FloatKernel<linear::BF16Loader>>, RowFormat::kFloat};
  k.LinearOf(WeightFormat::kF16) = {linear::RunFormat<linear::FloatKernel<linear::F16Loader>>, RowFormat::kFloat};
  k.LinearOf(WeightFormat::kFp8) = {linear::RunFormat<linear::FloatKernel<linear::Fp8Loader>>, RowFormat::kFloat};
  k.LinearOf(WeightFormat::kInt8) = {linear::RunFormat<linear::Int8Kernel>, RowFormat::kInt8};
  k.LinearOf(WeightFormat::kInt4) = {linear::RunFormat<linear::Int4Kernel>, RowFormat::kInt8};
  k.LinearOf(WeightFormat::kInt8Group) = {linear::RunFormat<linear::Int8GroupKernel>, RowFormat::kInt8};
  k.PrepareOf(RowFormat::kInt8) = linear::PrepareInt8;
  k.write_kv = WriteKv;
  k.AttendOf(KvType::kF32) = AttendFloats<float>;
  k.AttendOf(KvType::kF16) = AttendFloats<uint16_t>;
  k.AttendOf(KvType::kInt8) = AttendInt8;
  k.merge = Merge;
  k.finish = Finish;
  k.self_attend = SelfAttend;
  k.mean = Mean;
  k.shrink = lora::Shrink;
  k.expand = lora::Expand;
  k.max = MaxOf;
  k.all_finite = AllFinite;
  k.exp_sum = ExpSum;
  k.exp_weights = ExpWeights;
  k.sum = Sum;
  k.at_least = AtLeast;
  k.peak_read = ReadPeak;
  k.peak_fp32 = Fp32Peak;
  k.peak_int8 = Int8Peak;
  return k;
}

}  // namespace
}  // namespace tripos
