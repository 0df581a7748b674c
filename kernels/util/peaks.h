// What this machine can do at most, measured: the denominators of every efficiency that the benchmarks print.
#ifndef TRIPOS_UTIL_PEAKS_H_
#define TRIPOS_UTIL_PEAKS_H_

#include <cstdint>

#include "kernels/isa/kernels.h"

namespace tripos {

// Runs for some 50 ms on each of `threads` threads. `peak` is a TriposPeak. -1: there is no such operation. Throws Error.
double MeasurePeak(int32_t peak, const Kernels& kernels, int threads, int64_t bytes);

}  // namespace tripos

#endif  // TRIPOS_UTIL_PEAKS_H_
