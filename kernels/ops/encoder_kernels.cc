#include "kernels/ops/encoder_kernels.h"

namespace tripos {

extern const EncoderKernels kEncoderKernelsScalar;
#if defined(__x86_64__)
extern const EncoderKernels kEncoderKernelsAvx2;
extern const EncoderKernels kEncoderKernelsAvx512;
#endif

// Best first; the last one runs everywhere.
const EncoderKernels& ChooseEncoderKernels(Isa isa) {
  static const EncoderKernels* const kAll[] = {
#if defined(__x86_64__)
      &kEncoderKernelsAvx512,
      &kEncoderKernelsAvx2,
#endif
      &kEncoderKernelsScalar,
  };
  for (const EncoderKernels* kernels : kAll) {
    if (kernels->isa <= isa) return *kernels;
  }
  return kEncoderKernelsScalar;
}

}  // namespace tripos
