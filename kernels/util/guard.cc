#include "kernels/util/guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

#include "kernels/util/error.h"

namespace tripos {
namespace {

std::mutex changes;  // of num_readers
std::atomic<int> num_readers{0};
std::atomic<bool> was_page_lost{false};  // since the first of these readers began
uintptr_t page_bytes = 0;
struct sigaction before;  // what SIGBUS did without us

// In a signal: only system calls. A page that lies behind the file's end, or that its disk does not give, is replaced by
// one of zeros and read again.
void OnBusError(int number, siginfo_t* info, void*) {
  const int saved = errno;
  if (info->si_code == BUS_ADRERR && num_readers.load() > 0) {
    void* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(info->si_addr) / page_bytes * page_bytes);
    if (mmap(page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED) {
      was_page_lost.store(true);
      errno = saved;
      return;
    }
  }
  sigaction(SIGBUS, &before, nullptr);      // a fault happens again at once, and goes where it went before
  if (info->si_code <= 0) raise(number);  // what another process sent does not
}

}  // namespace

void BeginGuard() {
  static std::once_flag once;
  std::call_once(once, [] {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &before) != 0) throw Error("the system does not let SIGBUS be handled");
  });
  const std::lock_guard lock(changes);
  if (num_readers.load() == 0) was_page_lost.store(false);
  num_readers.fetch_add(1);
}

void EndGuard() {
  const std::lock_guard lock(changes);
  num_readers.fetch_sub(1);
  if (was_page_lost.load()) throw Error("a file was shortened while it was read, or its disk failed: load it again");
}

}  // namespace tripos
