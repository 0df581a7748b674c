// One vocabulary of vectors for all kernels, in the widest form that this translation unit's flags allow. Included once
// per instruction set; everything is in an anonymous namespace, so that no wide instruction can leak through an inline
// function that the linker merged. A file of this vocabulary (simd_*-inl.h) defines:
//
//   Vec, Ints, Mask      kLanes floats, kLanes int32 (sums wrap around), one truth value each
//   LoadN, StoreN        the first n lanes; the others read as 0. kHasMasks: as fast as all of them
//   DivNear              a / b within 2 ulp, where 1 / b is no subnormal
//   Max, Min             of floats: where one is NaN, the second operand
//   Round                to the nearest integer, ties to even
//   SumLanes, MaxLanes   in one order
//   MaxEach<kRows>(v)    lane r: the largest lane of v[r], for up to 8 rows, or kLanes
//   Transpose(v)         column i of the kLanes rows v becomes v[i]
//   PowerOfTwo(n)        2^n for integral n in [-126, 127]
//   TimesPowerOfTwo      x * 2^n for integral n from -1e30 on; far below, 0
//   LoadInts, LoadNibbles  kLanes * 4 bytes; their low and their high halves
//   SetQuad(p)           four signed bytes for every lane, as Dot wants them
//   Dot(sum, bytes, q)   + four products of unsigned and signed bytes per lane, exact
//   DotSmall(sum, b, s)  the same, where no unsigned byte is larger than kSmallByte and both are bytes of Ints
//   DotBiased(sum, b, s)  the same with b - 128 + kDotBias, where no signed byte is -128 and no b 0
//   StoreInt8, StoreSmallBytes  kLanes bytes, rounded; -127 to 127, or 0 to kSmallByte. What NaN becomes is not defined
//   LoadHalf, LoadBf16   kLanes floats of 16 bits
//   LoadBf16Pair         of kLanes words: the low halves, the high halves
//   StoreBf16, StoreBf16Pairs  kLanes floats rounded to bf16; kLanes words of two of them, the even one low. Only where
//                        tiles are, which read them: with AVX512-BF16, and in plain C++
//   LoadFp8Pair          of kLanes pairs of e4m3: the value / 256
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace tripos {
namespace {

// Four bytes of a row.
inline int32_t LoadQuad(const void* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof quad);
  return quad;
}

}  // namespace
}  // namespace tripos

#if defined(__AVX512VNNI__)
#include "kernels/util/simd_avx512-inl.h"
#elif defined(__AVX2__)
#include "kernels/util/simd_avx2-inl.h"
#else
#include "kernels/util/simd_plain-inl.h"
#endif

namespace tripos {
namespace {

// A number that is tuned to the registers: 32 of 16 lanes, 16 of 8, 16 of 4.
constexpr int ByLanes(int of16, int of8, int of4) { return kLanes == 16 ? of16 : kLanes == 8 ? of8 : of4; }

// As many lanes as `count` has, none where it is negative. Masks cost less than a branch.
inline int LanesOf(int64_t count) { return static_cast<int>(count < 0 ? 0 : count > kLanes ? kLanes : count); }
inline Vec LoadPart(const float* p, int64_t count) {
  return !kHasMasks && count >= kLanes ? Load(p) : LoadN(p, LanesOf(count));
}
inline void StorePart(float* p, Vec v, int64_t count) {
  !kHasMasks && count >= kLanes ? Store(p, v) : StoreN(p, v, LanesOf(count));
}

// Calls do_some(std::integral_constant<int, count>()), where `count` is one of 1 to kMax.
template <typename DoSome, int... kIndex>
inline void WithConstant(int count, DoSome&& do_some, std::integer_sequence<int, kIndex...>) {
  ((count == kIndex + 1 ? do_some(std::integral_constant<int, kIndex + 1>()) : void()), ...);
}
template <int kMax, typename DoSome>
inline void WithConstant(int count, DoSome&& do_some) {
  WithConstant(count, do_some, std::make_integer_sequence<int, kMax>());
}

inline void Prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }
inline void PrefetchL2(const void* p) { __builtin_prefetch(p, 0, 2); }

#if defined(__AVX2__)

// Round to nearest even; overflow becomes infinity.
inline uint16_t FloatToHalf(float x) { return static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)); }

// The sum of 32 bytes, by sums of eight, which are unsigned.
inline int32_t Sum32(const int8_t* p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i eights = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m128i sums = _mm_add_epi32(_mm256_castsi256_si128(eights), _mm256_extracti128_si256(eights, 1));
  return _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 2) - 32 * 128;
}

#else

inline uint16_t FloatToHalf(float x) { return quant::ToF16(x); }

inline int32_t Sum32(const int8_t* p) {
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) sum += p[i];
  return sum;
}

#endif

}  // namespace
}  // namespace tripos
