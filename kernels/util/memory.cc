#include "kernels/util/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "kernels/util/error.h"

namespace tripos {

// mmap: untouched pages cost nothing, so arenas may be sized for the largest step.
Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw Error(Format("cannot get %zu bytes of memory from the system", bytes));
  data_ = data;
  constexpr size_t kHugePage = size_t{1} << 21;
#ifdef MADV_HUGEPAGE
  if (bytes >= kHugePage) madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void LetPagesGo(const void* data, size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t start = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (start + page - 1) / page * page, last = (start + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace tripos
