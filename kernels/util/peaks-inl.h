// Loops that do nothing but read, or multiply and add, as fast as the instruction set can. Needs simd-inl.h.
namespace tripos {
namespace {

constexpr int kRounds = 20000;
constexpr int kChains = 12;  // independent accumulators: more than latency times width needs

template <typename T>
inline void Keep(T& value) {
  asm volatile("" : "+m"(value));
}

int64_t ReadPeak(const void* data, int64_t bytes) {
  constexpr int kUnroll = 8;
  constexpr int64_t kBytes = kUnroll * sizeof(Ints);
  const uint8_t* p = static_cast<const uint8_t*>(data);
  Ints sums[kUnroll];
  for (Ints& sum : sums) sum = SetInts(0);
  const int64_t whole = bytes / kBytes * kBytes;
  for (int64_t i = 0; i < whole; i += kBytes) {
    for (int j = 0; j < kUnroll; ++j) sums[j] = Xor(sums[j], LoadInts(p + i + j * static_cast<int64_t>(sizeof(Ints))));
  }
  for (Ints& sum : sums) Keep(sum);
  return whole;
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

// Products of bytes, by the fastest instructions for them: vpdpbusd, or vpmaddubsw with two more.
int64_t Int8Peak() {
  Ints sums[kChains];
  for (Ints& sum : sums) sum = SetInts(0);
  Ints a = SetInts(0x01010101);
  Keep(a);
  for (int i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < kChains; ++c) sums[c] = DotSmall(sums[c], a, a);
  }
  for (Ints& sum : sums) Keep(sum);
  return int64_t{2} * 4 * kLanes * kChains * kRounds;
}

}  // namespace
}  // namespace tripos
