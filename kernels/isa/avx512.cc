// AVX-512 F, BW, DQ, VL and VNNI. gcc 12 takes the undefined pass-through of its own intrinsics for a mistake: no
// -Wuninitialized.
// Flags on x86_64: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
// Flags on x86_64: -mprefer-vector-width=512 -Wno-uninitialized -Wno-maybe-uninitialized
#if defined(__x86_64__)
#include "kernels/isa/table-inl.h"

namespace tripos {
namespace {

[[gnu::target("avx512bf16")]] int64_t Bf16Peak() {
  Vec sums[kChains];
  for (Vec& sum : sums) sum = _mm512_setzero_ps();
  Ints bits = _mm512_set1_epi32(0x3f803f80);
  Keep(bits);
  const __m512bh a = reinterpret_cast<__m512bh>(bits);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbf16_ps(sums[c], a, a);
  }
  for (Vec& sum : sums) Keep(sum);
  return int64_t{2} * 32 * kChains * kRounds;
}

constexpr Kernels TableWithPeaks() {
  Kernels k = Table();
  k.peak_bf16 = Bf16Peak;
  return k;
}

}  // namespace

extern const Kernels kAvx512Kernels;
constinit const Kernels kAvx512Kernels = TableWithPeaks();

}  // namespace tripos

#endif  // __x86_64__
