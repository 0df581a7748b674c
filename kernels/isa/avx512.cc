// AVX-512 F, BW, DQ, VL and VNNI. gcc 12 takes the undefined pass-through of its own intrinsics for a mistake: no
// -Wuninitialized.
// Flags on x86_64: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
// Flags on x86_64: -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized
#if defined(__x86_64__)
#include "kernels/isa/table-inl.h"

namespace tripos {

extern const Kernels kAvx512Kernels;
constinit const Kernels kAvx512Kernels = Table();

}  // namespace tripos

#endif  // __x86_64__
