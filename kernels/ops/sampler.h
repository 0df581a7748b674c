// From a row of logits to a token, as src/tripos/runtime/sampling.py defines it, without sorting the vocabulary.
#ifndef TRIPOS_OPS_SAMPLER_H_
#define TRIPOS_OPS_SAMPLER_H_

#include <cstdint>
#include <utility>

#include "kernels/isa/kernels.h"

namespace tripos {

// Scratch of one thread, each array vocab_size long.
struct SamplerScratch {
  float* weights;
  float* raw;  // the unmodified logits, kept where logprobs are wanted
  std::pair<float, int32_t>* candidates;

  static size_t Bytes(int64_t vocab_size) { return static_cast<size_t>(vocab_size + 16) * 4 * sizeof(float); }
  static SamplerScratch At(void* memory, int64_t vocab_size) {
    float* weights = static_cast<float*>(memory);
    float* raw = weights + (vocab_size + 16);
    return {weights, raw, reinterpret_cast<std::pair<float, int32_t>*>(raw + (vocab_size + 16))};
  }
};

// Draws row `row` of the step. `logits` [vocab_size] is changed in place (after its logprobs are taken).
void SampleRow(const Kernels& kernels, const TriposStep& step, int row, float* logits, int64_t vocab_size,
               const SamplerScratch& scratch, const TriposOutput& out);

}  // namespace tripos

#endif  // TRIPOS_OPS_SAMPLER_H_
