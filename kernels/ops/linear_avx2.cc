// AVX2 + FMA + F16C. Compile with -mavx2 -mfma -mf16c.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/ops/linear_kernels.h"

namespace tripos::linear {
namespace {

struct Simd {
  static constexpr int kLanes = 8;
  static constexpr int kMaxRowsFloat = 6;
  static constexpr int kMaxRowsInt8 = 4;
  static constexpr int kMaxRowsGroup = 3;

  using F = __m256;
  using I = __m256i;
  // Four activations widened to 16 bits: 255 * 127 twice would saturate the int16 sum of vpmaddubsw.
  struct Quad {
    __m256i even, odd;
  };
  using NibbleQuad = __m256i;

  static void Prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static void PrefetchL2(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }
  static F Zero() { return _mm256_setzero_ps(); }
  static F Set1(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F Pow2(F n) {
    const I biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }
  static F ToFloat(I x) { return _mm256_cvtepi32_ps(x); }
  static F LoadF16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void LoadBF16Pair(const uint8_t* p, F* lo, F* hi) {
    const I words = LoadI(p);
    *lo = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
    *hi = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
  }
  // s e4 m3 in a word's high byte, shifted right by one with the sign kept: the bits of a half.
  static F HalfOfHighByte(__m128i words) {
    return _mm256_cvtph_ps(_mm_and_si128(_mm_srai_epi16(words, 1), _mm_set1_epi16(static_cast<short>(0xBF80))));
  }
  static void LoadFp8Pair(const uint8_t* p, F* even, F* odd) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    *even = HalfOfHighByte(_mm_slli_epi16(words, 8));
    *odd = HalfOfHighByte(words);
  }

  static I ZeroI() { return _mm256_setzero_si256(); }
  static I Set1I(int32_t x) { return _mm256_set1_epi32(x); }
  static I AddI(I a, I b) { return _mm256_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I MaxI(I a, I b) { return _mm256_max_epi32(a, b); }
  static I AbsBits(F x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7FFFFFFF)); }
  static I RoundToInt(F x) { return _mm256_cvtps_epi32(x); }
  static int32_t MaxLanes(I x) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
  }
  static void StoreBytes(int8_t* p, I x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
  }
  static int32_t SumGroup(const int8_t* p) {  // of kGroup bytes, by sums of eight, which are unsigned
    const __m256i bytes = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_set1_epi8(-128));
    const __m256i eights = _mm256_sad_epu8(bytes, _mm256_setzero_si256());
    const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 128 * static_cast<int32_t>(kGroup);
  }

  static I LoadI(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void LoadNibbles(const uint8_t* p, I* low, I* high) {
    const I bytes = LoadI(p);
    const I mask = _mm256_set1_epi8(15);
    *low = _mm256_and_si256(bytes, mask);
    *high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
  }
  static Quad BroadcastQuad(const uint8_t* p) {
    const I quad = BroadcastNibbleQuad(p);
    return {_mm256_srai_epi16(_mm256_slli_epi16(quad, 8), 8), _mm256_srai_epi16(quad, 8)};
  }
  static NibbleQuad BroadcastNibbleQuad(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, 4);
    return _mm256_set1_epi32(quad);
  }
  static I Dot(I acc, I w, Quad a) {
    const I even = _mm256_and_si256(w, _mm256_set1_epi16(255));
    const I odd = _mm256_srli_epi16(w, 8);
    return AddI(acc, AddI(_mm256_madd_epi16(even, a.even), _mm256_madd_epi16(odd, a.odd)));
  }
  // 15 * 127 twice fits int16.
  static I DotNibble(I acc, I w, NibbleQuad a) {
    return AddI(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
  }
};

}  // namespace
}  // namespace tripos::linear

#include "kernels/ops/linear-inl.h"

namespace tripos::linear {
namespace {

bool IsSupported() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

}  // namespace

const Kernels kAvx2Kernels = {"avx2", IsSupported, Prepare, Run};

}  // namespace tripos::linear
#endif  // __x86_64__
