// Whether this process may use AMX: the CPU has it, and the kernel lets us.
#ifndef TRIPOS_UTIL_AMX_H_
#define TRIPOS_UTIL_AMX_H_

#include <string>

namespace tripos {

// Asks for the permission on the first call of either; the answer holds for the life of the process. The kernel gives
// the permission to all threads of the process and to its forks, and takes it back at exec. From then on it refuses
// alternate signal stacks that cannot hold the tile registers (8 KiB and more).
bool AmxIsUsable();

// Why not; empty: it is usable.
const std::string& AmxProblem();

}  // namespace tripos

#endif  // TRIPOS_UTIL_AMX_H_
