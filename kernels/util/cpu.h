// What this CPU can do, and how many of its cores we may use.
#ifndef TRIPOS_UTIL_CPU_H_
#define TRIPOS_UTIL_CPU_H_

#include <string>

namespace tripos {

struct Cpu {
  std::string name;
  bool has_bf16 = false;   // vdpbf16ps
  int num_cores = 1;       // in this process's affinity mask
};

const Cpu& ThisCpu();

}  // namespace tripos

#endif  // TRIPOS_UTIL_CPU_H_
