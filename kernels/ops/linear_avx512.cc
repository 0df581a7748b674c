// AVX-512 F/BW/DQ/VL/VNNI. Compile with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma -mf16c.
//
// Tiles are 12 rows x 2 vectors: 24 accumulators, two weight vectors and a broadcast fit the 32 registers, and 14 loads
// feed 24 multiply-adds. Zen 4 does one 512-bit vpdpbusd and one 64-byte load per cycle.
#if defined(__x86_64__)
#include <immintrin.h>

// gcc 12 takes the undefined pass-through in its own headers for a mistake.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/ops/linear_kernels.h"

namespace tripos::linear {
namespace {

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kMaxRowsFloat = 12;
  static constexpr int kMaxRowsInt8 = 12;
  static constexpr int kMaxRowsGroup = 6;  // int32 and float accumulators side by side

  using F = __m512;
  using I = __m512i;
  using Quad = __m512i;
  using NibbleQuad = __m512i;

  static void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static void PrefetchL2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
  static F Zero() { return _mm512_setzero_ps(); }
  static F Set1(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Pow2(F n) {
    const I biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
  }
  static F ToFloat(I x) { return _mm512_cvtepi32_ps(x); }
  static F LoadF16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void LoadBF16Pair(const uint8_t* p, F* lo, F* hi) {
    const I words = LoadI(p);
    *lo = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
    *hi = _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
  // s e4 m3 in a word's high byte, shifted right by one with the sign kept: the bits of a half.
  static F HalfOfHighByte(__m256i words) {
    const __m256i bits = _mm256_and_si256(_mm256_srai_epi16(words, 1), _mm256_set1_epi16(static_cast<short>(0xBF80)));
    return _mm512_cvtph_ps(bits);
  }
  static void LoadFp8Pair(const uint8_t* p, F* even, F* odd) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    *even = HalfOfHighByte(_mm256_slli_epi16(words, 8));
    *odd = HalfOfHighByte(words);
  }

  static I ZeroI() { return _mm512_setzero_si512(); }
  static I Set1I(int32_t x) { return _mm512_set1_epi32(x); }
  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I MaxI(I a, I b) { return _mm512_max_epi32(a, b); }
  static I AbsBits(F x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7FFFFFFF)); }
  static I RoundToInt(F x) { return _mm512_cvtps_epi32(x); }
  static int32_t MaxLanes(I x) { return _mm512_reduce_max_epi32(x); }
  static void StoreBytes(int8_t* p, I x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(x)); }
  static int32_t SumGroup(const int8_t* p) {  // of kGroup bytes, by sums of eight, which are unsigned
    const __m256i bytes = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_set1_epi8(-128));
    const __m256i eights = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 128 * static_cast<int32_t>(kGroup);
  }

  static I LoadI(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void LoadNibbles(const uint8_t* p, I* low, I* high) {
    const I bytes = LoadI(p);
    const I mask = _mm512_set1_epi8(15);
    *low = _mm512_and_si512(bytes, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
  }
  static Quad BroadcastQuad(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, 4);
    return _mm512_set1_epi32(quad);
  }
  static NibbleQuad BroadcastNibbleQuad(const uint8_t* p) { return BroadcastQuad(p); }
  // Not the intrinsic: gcc 12 copies every accumulator around it in tall tiles, at half the speed.
  static I Dot(I acc, I w, Quad a) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    return acc;
  }
  static I DotNibble(I acc, I w, NibbleQuad a) { return Dot(acc, w, a); }
};

}  // namespace
}  // namespace tripos::linear

#include "kernels/ops/linear-inl.h"

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
