// Survives a mapped file that somebody shortens while it is read: behind its new end there are zeros, not SIGBUS.
#ifndef TRIPOS_UTIL_GUARD_H_
#define TRIPOS_UTIL_GUARD_H_

namespace tripos {

// The guard holds for all threads from the first Begin to the last End. Throws Error when the system refuses.
void BeginGuard();
// Ends it all the same, and then throws Error when zeros were read in the stead of a file since the first Begin.
void EndGuard();

}  // namespace tripos

#endif  // TRIPOS_UTIL_GUARD_H_
