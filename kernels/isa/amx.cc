// AMX tiles for linears, beside the vectors of AVX-512. The warnings: see avx512.cc.
// Flags on x86_64: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16
// Flags on x86_64: -mamx-tile -mamx-int8 -mamx-bf16
// Flags on x86_64: -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized
#if defined(__x86_64__)
#include "kernels/isa/tile_table-inl.h"

namespace tripos {

extern const Kernels kAmxKernels;
constinit const Kernels kAmxKernels = TileTable();

}  // namespace tripos

#endif  // __x86_64__
