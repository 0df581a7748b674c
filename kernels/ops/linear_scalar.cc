// The linear kernels compiled for scalar; see CMakeLists.txt for the flags.
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/linear-inl.h"
#include "kernels/ops/linear_kernels.h"

namespace tripos::linear {

const Kernels kScalarKernels = {"scalar", [] { return true; }, Prepare, Run};

}  // namespace tripos::linear
