// AVX2, FMA and F16C.
// Flags on x86_64: -mavx2 -mfma -mf16c
#if defined(__x86_64__)
#include "kernels/isa/table-inl.h"

namespace tripos {

extern const Kernels kAvx2Kernels;
constinit const Kernels kAvx2Kernels = Table();

}  // namespace tripos

#endif  // __x86_64__
