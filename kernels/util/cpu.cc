#include "kernels/util/cpu.h"

#include <sched.h>

#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace tripos {
namespace {

int NumCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return cores > 0 ? cores : 1;
}

#if defined(__x86_64__)
std::string BrandName() {
  unsigned words[13] = {};
  if (__get_cpuid_max(0x80000000u, nullptr) < 0x80000004u) return "x86-64";
  for (unsigned i = 0; i < 3; ++i) {
    unsigned* w = words + 4 * i;
    __get_cpuid(0x80000002u + i, w, w + 1, w + 2, w + 3);
  }
  std::string name = reinterpret_cast<const char*>(words);
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name;
}

#endif

Cpu Detect() {
  Cpu cpu;
  cpu.num_cores = NumCores();
#if defined(__x86_64__)
  cpu.name = BrandName();
  cpu.has_bf16 = __builtin_cpu_supports("avx512bf16");
#else
  cpu.name = "unknown";
#endif
  return cpu;
}

}  // namespace

const Cpu& ThisCpu() {
  static const Cpu cpu = Detect();
  return cpu;
}

}  // namespace tripos
