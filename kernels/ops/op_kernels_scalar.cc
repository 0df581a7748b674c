// The op kernels and peak loops compiled for scalar; see CMakeLists.txt for the flags.
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/attention-inl.h"
#include "kernels/ops/attention_int8-inl.h"
#include "kernels/ops/attend-inl.h"
#include "kernels/ops/rows-inl.h"
#include "kernels/ops/sampling-inl.h"
#include "kernels/util/peaks-inl.h"

namespace tripos {

extern const OpKernels kOpKernelsScalar;
const OpKernels kOpKernelsScalar = {Isa::kScalar, Norm,   Rope,  Glu,    Act,   AddRows,   ScaleRow,  WriteKv,
                                  Attend, Merge, Finish, MaxOf, AllFinite, ExpSum, ExpWeights, Sum, AtLeast};

extern const PeakKernels kPeakKernelsScalar;
const PeakKernels kPeakKernelsScalar = {Isa::kScalar, ReadPeak, Fp32Peak, nullptr, nullptr};

}  // namespace tripos
