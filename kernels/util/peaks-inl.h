// Loops that do nothing but read, or multiply and add, as fast as the instruction set can. Needs simd-inl.h.
#include "kernels/util/peaks.h"

namespace tripos {
namespace {

constexpr int kRounds = 20000;
constexpr int kChains = 12;  // independent accumulators: more than latency times width needs

#if defined(__AVX2__)
using Word = __m256i;
inline Word LoadWord(const Word* p) { return _mm256_loadu_si256(p); }
inline Word Xor(Word a, Word b) { return _mm256_xor_si256(a, b); }
#else
using Word = uint64_t __attribute__((vector_size(16)));
inline Word LoadWord(const Word* p) {
  Word w;
  std::memcpy(&w, p, sizeof w);
  return w;
}
inline Word Xor(Word a, Word b) { return a ^ b; }
#endif

template <typename T>
inline void Keep(T& value) {
  asm volatile("" : "+m"(value));
}

int64_t ReadPeak(const void* data, int64_t bytes) {
  constexpr int kUnroll = 8;
  const Word* p = static_cast<const Word*>(data);
  const int64_t count = bytes / static_cast<int64_t>(sizeof(Word)) / kUnroll * kUnroll;
  Word sums[kUnroll] = {};
  for (int64_t i = 0; i < count; i += kUnroll) {
    for (int j = 0; j < kUnroll; ++j) sums[j] = Xor(sums[j], LoadWord(p + i + j));
  }
  for (Word& sum : sums) Keep(sum);
  return count * static_cast<int64_t>(sizeof(Word));
}

int64_t Fp32Peak() {
  Vec sums[kChains];
  for (Vec& sum : sums) sum = Set(1.0f);
  Vec a = Set(0.9999f), b = Set(0.0001f);
  Keep(a);
  Keep(b);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = Fma(sums[c], a, b);
  }
  for (Vec& sum : sums) Keep(sum);
  return int64_t{2} * kLanes * kChains * kRounds;
}

#if defined(__AVX512F__)
[[gnu::target("avx512bf16")]] int64_t Bf16Peak() {
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512i bits = _mm512_set1_epi32(0x3f803f80);
  Keep(bits);
  const __m512bh a = reinterpret_cast<__m512bh>(bits);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbf16_ps(sums[c], a, a);
  }
  for (__m512& sum : sums) Keep(sum);
  return int64_t{2} * 32 * kChains * kRounds;
}

int64_t Int8Peak() {
  __m512i sums[kChains];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi8(1);
  Keep(a);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = _mm512_dpbusd_epi32(sums[c], a, a);
  }
  for (__m512i& sum : sums) Keep(sum);
  return int64_t{2} * 64 * kChains * kRounds;
}
#endif

}  // namespace
}  // namespace tripos
