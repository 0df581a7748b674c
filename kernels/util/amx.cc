#include "kernels/util/amx.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "kernels/util/error.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tripos {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// arch_prctl(2) and the kernel's Documentation/arch/x86/xstate.rst; older headers do not name them.
constexpr int kGetPermission = 0x1022, kRequestPermission = 0x1023;
constexpr unsigned long kSignalStackBytes = 51;  // AT_MINSIGSTKSZ
constexpr uint64_t kTileConfig = 17, kTileData = 18;  // components of the extended state

bool CpuHasAmx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kBf16) && (d & kTile) && (d & kInt8);
}

bool SystemSavesTiles() {
  constexpr unsigned kOsXsave = 1u << 27;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kBoth = 1u << kTileConfig | 1u << kTileData;
  return (low & kBoth) == kBoth;
}

std::string Refusal(int error) {
  if (error == EINVAL) return "the kernel does not give out AMX: it needs Linux 5.16 or newer";
  if (error == ENOSPC) {
    return Format("the kernel refuses AMX: a thread has an alternate signal stack of less than %lu bytes (sigaltstack)",
                  getauxval(kSignalStackBytes));
  }
  return Format("the kernel refuses AMX: %s", std::strerror(error));
}

std::string Request() {
  if (!CpuHasAmx()) return "the CPU has no AMX";
  if (!SystemSavesTiles()) return "the operating system does not save the tile registers of AMX";
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return Refusal(errno);
  uint64_t permitted = 0;
  if (syscall(SYS_arch_prctl, kGetPermission, &permitted) != 0) return Refusal(errno);
  return permitted >> kTileData & 1 ? "" : "the kernel did not give the permission to use AMX";
}
#else
std::string Request() { return "this build has no AMX: it is for x86-64 Linux"; }
#endif

}  // namespace

const std::string& AmxProblem() {
  static const std::string problem = Request();
  return problem;
}

bool AmxIsUsable() { return AmxProblem().empty(); }

}  // namespace tripos
