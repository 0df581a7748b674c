// The linear kernels compiled for avx512; see CMakeLists.txt for the flags.
#if defined(__x86_64__)
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/linear-inl.h"
#include "kernels/ops/linear_kernels.h"

namespace tripos::linear {
namespace {

bool IsSupported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

}  // namespace

const Kernels kAvx512Kernels = {"avx512", IsSupported, Prepare, Run};

}  // namespace tripos::linear

#endif  // __x86_64__
