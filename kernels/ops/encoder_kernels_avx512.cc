// The encoder kernels compiled for avx512; see CMakeLists.txt for the flags.
#if defined(__x86_64__)
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/encoder-inl.h"

namespace tripos {

extern const EncoderKernels kEncoderKernelsAvx512;
const EncoderKernels kEncoderKernelsAvx512 = {Isa::kAvx512, SelfAttend, Mean};

}  // namespace tripos

#endif  // __x86_64__
