// AMX tiles for linears, beside the vectors of AVX-512. The warnings: see avx512.cc.
// Flags on x86_64: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16
// Flags on x86_64: -mamx-tile -mamx-int8 -mamx-bf16
// Flags on x86_64: -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized
#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#include "kernels/isa/tile_table-inl.h"
#include "kernels/util/peaks_tiles-inl.h"

namespace tripos {
namespace {

constexpr Kernels AmxTable() {
  Kernels k = TileTable();
  k.peak_tiles_int8 = TilePeak<true>;
  k.peak_tiles_bf16 = TilePeak<false>;
  return k;
}

}  // namespace

extern const Kernels kAmxKernels;
constinit const Kernels kAmxKernels = AmxTable();

}  // namespace tripos

#elif defined(__x86_64__)
#include "kernels/isa/kernels.h"

namespace tripos {

extern const Kernels kAmxKernels;
constinit const Kernels kAmxKernels;  // the compiler knows no AMX

}  // namespace tripos
#endif
