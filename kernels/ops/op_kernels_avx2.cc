// The op kernels and peak loops compiled for avx2; see CMakeLists.txt for the flags.
#if defined(__x86_64__)
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/attention-inl.h"
#include "kernels/ops/attention_int8-inl.h"
#include "kernels/ops/attend-inl.h"
#include "kernels/ops/rows-inl.h"
#include "kernels/ops/sampling-inl.h"
#include "kernels/util/peaks-inl.h"

namespace tripos {

extern const OpKernels kOpKernelsAvx2;
const OpKernels kOpKernelsAvx2 = {Isa::kAvx2, Norm,   Rope,  Glu,    Act,   AddRows,   ScaleRow,  WriteKv,
                                  Attend, Merge, Finish, MaxOf, AllFinite, ExpSum, ExpWeights, Sum, AtLeast};

extern const PeakKernels kPeakKernelsAvx2;
const PeakKernels kPeakKernelsAvx2 = {Isa::kAvx2, ReadPeak, Fp32Peak, nullptr, nullptr};

}  // namespace tripos

#endif  // __x86_64__
