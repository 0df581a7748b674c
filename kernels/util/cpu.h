// What this CPU can do, and how many of its cores we may use.
#ifndef TRIPOS_UTIL_CPU_H_
#define TRIPOS_UTIL_CPU_H_

#include <string>

namespace tripos {

enum class Isa { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };  // each includes the ones before it

struct Cpu {
  std::string name;
  Isa isa = Isa::kScalar;  // the best that both this build and this CPU have
  bool has_bf16 = false;   // AVX512-BF16
  int num_cores = 1;       // in this process's affinity mask
};

const Cpu& ThisCpu();

const char* IsaName(Isa isa);

// "auto" or a name; throws Error when unknown or not available here.
Isa ChooseIsa(const std::string& name);

}  // namespace tripos

#endif  // TRIPOS_UTIL_CPU_H_
