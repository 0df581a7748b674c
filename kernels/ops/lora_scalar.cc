// The adapter kernels compiled for scalar; see CMakeLists.txt for the flags.
#include "kernels/util/simd-inl.h"

#include "kernels/ops/lora-inl.h"

namespace tripos::lora {

extern const Kernels kScalarKernels;
const Kernels kScalarKernels = {Isa::kScalar, Shrink, Expand};

}  // namespace tripos::lora
