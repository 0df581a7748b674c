// Affine int4 in groups of 32: a search over scales, each refined by least squares.
#include <algorithm>

#include "kernels/quant/floats.h"
#include "kernels/quant/quantize.h"

namespace tripos::quant {
namespace {

// Rounds x to q under (scale, minimum) and returns the squared error; the sums feed the least squares.
struct Fit {
  float error, sum_q, sum_qq, sum_qx;
};

Fit Round(const float* x, float scale, float minimum, uint8_t* q) {
  const float inverse = 1.0f / scale;
  Fit fit = {};
  for (int i = 0; i < kGroupSize; ++i) {
    const int32_t level = std::clamp(RoundToInt((x[i] - minimum) * inverse), 0, 15);
    q[i] = static_cast<uint8_t>(level);
  }
  for (int i = 0; i < kGroupSize; ++i) {
    const float level = q[i];
    const float error = scale * level + minimum - x[i];
    fit.error += error * error;
    fit.sum_q += level;
    fit.sum_qq += level * level;
    fit.sum_qx += level * x[i];
  }
  return fit;
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

  float best_error = 3.4e38f;
  constexpr float kShrink[] = {1.0f, 0.94f, 0.88f, 0.8f};  // of the range, around its centre
  for (const float shrink : kShrink) {
    const float center = 0.5f * (low + high);
    float scale = (high - low) * shrink / 15.0f;
    float minimum = center - 7.5f * scale;
    uint8_t q[kGroupSize];
    for (int round = 0; round < 2; ++round) {
      const uint16_t half_scale = ToF16(scale), half_minimum = ToF16(minimum);
      if (FromF16(half_scale) == 0.0f) break;
      const Fit fit = Round(x, FromF16(half_scale), FromF16(half_minimum), q);
      if (fit.error < best_error) {
        best_error = fit.error;
        group->scale = half_scale;
        group->minimum = half_minimum;
        std::copy_n(q, kGroupSize, group->q);
      }
      const float determinant = kGroupSize * fit.sum_qq - fit.sum_q * fit.sum_q;
      if (determinant <= 0.0f) break;
      scale = (kGroupSize * fit.sum_qx - fit.sum_q * sum) / determinant;
      minimum = (sum - scale * fit.sum_q) / kGroupSize;
      if (scale <= 0.0f) break;
    }
  }
}

}  // namespace tripos::quant
