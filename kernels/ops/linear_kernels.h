// The kernel tables of each instruction set, for the ordered list in linear.cc.
#ifndef TRIPOS_KERNELS_OPS_LINEAR_KERNELS_H_
#define TRIPOS_KERNELS_OPS_LINEAR_KERNELS_H_

#include "kernels/ops/linear.h"

namespace tripos::linear {

extern const Kernels kAvx512Kernels;  // linear_avx512.cc: -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni
extern const Kernels kAvx2Kernels;    // linear_avx2.cc: -mavx2 -mfma -mf16c
extern const Kernels kScalarKernels;  // linear_scalar.cc

}  // namespace tripos::linear

#endif  // TRIPOS_KERNELS_OPS_LINEAR_KERNELS_H_
