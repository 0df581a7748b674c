// The linear kernels compiled for avx2; see CMakeLists.txt for the flags.
#if defined(__x86_64__)
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/linear-inl.h"
#include "kernels/ops/linear_kernels.h"

namespace tripos::linear {
namespace {

bool IsSupported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2", IsSupported, Prepare, Run};

}  // namespace tripos::linear

#endif  // __x86_64__
