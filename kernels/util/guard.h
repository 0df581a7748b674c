// Survives a mapped file that somebody shortens while it is read: behind its new end there are zeros, not SIGBUS.
// Whoever reads must compare the file's size and time of change afterwards.
#ifndef TRIPOS_UTIL_GUARD_H_
#define TRIPOS_UTIL_GUARD_H_

namespace tripos {

// The guard holds for all threads from the first Begin to the last End. Throws Error when the system refuses.
void BeginGuard();
void EndGuard();

}  // namespace tripos

#endif  // TRIPOS_UTIL_GUARD_H_
