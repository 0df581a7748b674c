#include "kernels/util/cpu.h"

#include <sched.h>

#include <thread>

#include "kernels/util/error.h"

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

// __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
Isa BestIsa() {
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vnni");
  if (has_avx2 && has_avx512) return Isa::kAvx512;
  return has_avx2 ? Isa::kAvx2 : Isa::kScalar;
}
#endif

Cpu Detect() {
  Cpu cpu;
  cpu.num_cores = NumCores();
#if defined(__x86_64__)
  cpu.name = BrandName();
  cpu.isa = BestIsa();
  cpu.has_bf16 = cpu.isa == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
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

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx2: return "avx2";
    case Isa::kScalar: break;
  }
  return "scalar";
}

Isa ChooseIsa(const std::string& name) {
  const Isa best = ThisCpu().isa;
  if (name == "auto" || name.empty()) return best;
  for (Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512}) {
    if (name != IsaName(isa)) continue;
    if (isa > best) throw Error(Format("this CPU has no %s; the best here is %s", name.c_str(), IsaName(best)));
    return isa;
  }
  throw Error(Format("isa \"%s\" is unknown: use auto, avx512, avx2 or scalar", name.c_str()));
}

}  // namespace tripos
