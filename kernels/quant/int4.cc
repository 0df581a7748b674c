// Affine int4 in groups of 32: a search over scales, each refined by least squares.
#include <algorithm>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {
namespace {

constexpr int kLanes = 8;  // partial sums, so that the loops vectorize in a fixed order

float Sum(const float (&lanes)[kLanes]) {
  float sum = 0.0f;
  for (const float lane : lanes) sum += lane;
  return sum;
}

// The levels of x under (scale, minimum) and the squared error; the sums feed the least squares.
struct Fit {
  float levels[kGroupSize];
  float error, sum_q, sum_qq, sum_qx;
};

void Round(const float* x, float scale, float minimum, Fit* fit) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to an integer
  const float inverse = 1.0f / scale;
  float error[kLanes] = {}, q[kLanes] = {}, qq[kLanes] = {}, qx[kLanes] = {};
  for (int i = 0; i < kGroupSize; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      float level = (x[i + j] - minimum) * inverse;
      level = level < 15.0f ? level : 15.0f;
      level = level > 0.0f ? level : 0.0f;
      level = (level + kRound) - kRound;
      fit->levels[i + j] = level;
      const float difference = scale * level + minimum - x[i + j];
      error[j] += difference * difference;
      q[j] += level;
      qq[j] += level * level;
      qx[j] += level * x[i + j];
    }
  }
  fit->error = Sum(error);
  fit->sum_q = Sum(q);
  fit->sum_qq = Sum(qq);
  fit->sum_qx = Sum(qx);
}

}  // namespace

void QuantizeInt4(const float* x, Int4Group* group) {
  float low = x[0], high = x[0], sum = 0.0f;
  for (int i = 0; i < kGroupSize; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum += x[i];
  }
  group->minimum = ToF16(low);
  group->scale = 0;
  std::fill_n(group->q, kGroupSize, uint8_t{0});
  if (!(high - low > 1e-7f)) return;  // flat (or NaN, which the minimum carries)

  Fit fit, best;
  best.error = 3.4e38f;
  constexpr float kShrink[] = {1.0f, 0.94f, 0.88f, 0.8f};  // of the range, around its centre
  for (const float shrink : kShrink) {
    float scale = (high - low) * shrink / 15.0f;
    float minimum = 0.5f * (low + high) - 7.5f * scale;
    for (int round = 0; round < 2; ++round) {
      const uint16_t half_scale = ToF16(scale), half_minimum = ToF16(minimum);
      if (half_scale == 0) break;
      Round(x, FromF16(half_scale), FromF16(half_minimum), &fit);
      if (fit.error < best.error) {
        best = fit;
        group->scale = half_scale;
        group->minimum = half_minimum;
      }
      const float determinant = kGroupSize * fit.sum_qq - fit.sum_q * fit.sum_q;
      if (determinant <= 0.0f) break;
      scale = (kGroupSize * fit.sum_qx - fit.sum_q * sum) / determinant;
      minimum = (sum - scale * fit.sum_q) / kGroupSize;
      if (scale <= 0.0f) break;
    }
  }
  if (group->scale == 0) return;
  for (int i = 0; i < kGroupSize; ++i) group->q[i] = static_cast<uint8_t>(best.levels[i]);
}

}  // namespace tripos::quant
