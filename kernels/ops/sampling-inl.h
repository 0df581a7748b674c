// The passes over the vocabulary that sampling makes. Needs simd-inl.h and math-inl.h.
namespace tripos {
namespace {

float MaxOf(const float* x, int64_t count) {
  Vec largest = Set(kMinusInfinity);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) largest = Max(largest, Load(x + i));
  float value = MaxLanes(largest);
  for (; i < count; ++i) value = x[i] > value ? x[i] : value;
  return value;
}

// x * 0 is 0 for every finite x and NaN for the others.
bool AllFinite(const float* x, int64_t count) {
  Vec sum = Set(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum = Fma(Load(x + i), Set(0.0f), sum);
  float value = SumLanes(sum);
  for (; i < count; ++i) value += x[i] * 0.0f;
  return value == 0.0f;
}

double ExpSum(const float* x, int64_t count, float largest) {
  constexpr int64_t kRun = 64 * kLanes;  // float sums of this length, added up in double
  double total = 0.0;
  for (int64_t start = 0; start < count; start += kRun) {
    const int64_t end = start + kRun < count ? start + kRun : count;
    Vec sum = Set(0.0f);
    int64_t i = start;
    for (; i + kLanes <= end; i += kLanes) sum = Add(sum, Exp(Sub(Load(x + i), Set(largest))));
    if (i < end) {
      const int rest = static_cast<int>(end - i);
      float lanes[kLanes] = {};
      StoreN(lanes, Exp(Sub(LoadN(x + i, rest), Set(largest))), rest);
      sum = Add(sum, Load(lanes));
    }
    total += static_cast<double>(SumLanes(sum));
  }
  return total;
}

void ExpWeights(const float* x, int64_t count, float largest, float divisor, float* y) {
  const Vec d = Set(divisor), peak = Set(largest);
  for (int64_t i = 0; i < count; i += kLanes) {
    StorePart(y + i, Exp(Sub(Div(LoadPart(x + i, count - i), d), peak)), count - i);
  }
}

double Sum(const float* x, int64_t count) {
  constexpr int64_t kRun = 64 * kLanes;  // as in ExpSum
  double total = 0.0;
  for (int64_t start = 0; start < count; start += kRun) {
    const int64_t end = start + kRun < count ? start + kRun : count;
    Vec sum = Set(0.0f);
    for (int64_t i = start; i < end; i += kLanes) sum = Add(sum, LoadPart(x + i, end - i));
    total += static_cast<double>(SumLanes(sum));
  }
  return total;
}

int64_t AtLeast(const float* x, int64_t count, float cut, int32_t* ids) {
  int64_t num_found = 0, i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {  // most vectors hold none
    const Vec largest = Max(Max(Load(x + i), Load(x + i + kLanes)), Max(Load(x + i + 2 * kLanes), Load(x + i + 3 * kLanes)));
    if (MaxLanes(largest) < cut) continue;
    for (int64_t j = i; j < i + 4 * kLanes; ++j) {
      ids[num_found] = static_cast<int32_t>(j);
      num_found += x[j] >= cut;
    }
  }
  for (; i < count; ++i) {
    if (x[i] >= cut) ids[num_found++] = static_cast<int32_t>(i);
  }
  return num_found;
}

}  // namespace
}  // namespace tripos
