// The adapter kernels compiled for avx512; see CMakeLists.txt for the flags.
#if defined(__x86_64__)
#include "kernels/util/simd-inl.h"

#include "kernels/ops/lora-inl.h"

namespace tripos::lora {

extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = {Isa::kAvx512, Shrink, Expand};

}  // namespace tripos::lora

#endif  // __x86_64__
