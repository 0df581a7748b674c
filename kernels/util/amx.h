// Whether this process may use AMX: the CPU has it, and the kernel lets us.
#ifndef TRIPOS_UTIL_AMX_H_
#define TRIPOS_UTIL_AMX_H_

#include <string>

namespace tripos {

// Asks for the permission on the first call of either; the answer holds for the life of the process. The kernel gives
// the permission to all threads of the process and to its forks, and takes it back at exec. From then on it refuses
// alternate signal stacks of less than AT_MINSIGSTKSZ, some 12 KiB; where a thread has one already, it refuses AMX.
bool AmxIsUsable();

// Why not; empty: it is usable.
const std::string& AmxProblem();

}  // namespace tripos

#endif  // TRIPOS_UTIL_AMX_H_
