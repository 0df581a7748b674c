// The encoder kernels compiled for scalar; see CMakeLists.txt for the flags.
#include "kernels/util/simd-inl.h"
#include "kernels/util/math-inl.h"

#include "kernels/ops/encoder-inl.h"

namespace tripos {

extern const EncoderKernels kEncoderKernelsScalar;
const EncoderKernels kEncoderKernelsScalar = {Isa::kScalar, SelfAttend, Mean};

}  // namespace tripos
