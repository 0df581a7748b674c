// What this machine can do at most, measured: the denominators of every efficiency that the benchmarks print.
#ifndef TRIPOS_UTIL_PEAKS_H_
#define TRIPOS_UTIL_PEAKS_H_

#include <cstdint>

#include "kernels/util/cpu.h"

namespace tripos {

// Runs for some 50 ms on each of `threads` threads. `peak` is a TriposPeak. -1: this instruction set has no such
// operation. Throws Error.
double MeasurePeak(int32_t peak, Isa isa, int threads, int64_t bytes);

// Inner loops, one table per instruction set. A function returns the number of operations (or bytes) that it did;
// nullptr: the instruction set has none.
struct PeakKernels {
  Isa isa;
  int64_t (*read)(const void* data, int64_t bytes);
  int64_t (*fp32)();
  int64_t (*bf16)();  // call only where the CPU has bf16
  int64_t (*int8)();
};

// The same for tiles. Call only where AmxIsUsable().
struct AmxPeakKernels {
  int64_t (*int8)();
  int64_t (*bf16)();
};
extern const AmxPeakKernels kAmxPeakKernels;

}  // namespace tripos

#endif  // TRIPOS_UTIL_PEAKS_H_
