// A block of zeroed memory, aligned to 64 bytes; large ones on huge pages where the system grants them.
#ifndef TRIPOS_UTIL_MEMORY_H_
#define TRIPOS_UTIL_MEMORY_H_

#include <cstddef>
#include <utility>

namespace tripos {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);  // throws Error when the system refuses
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  template <typename T>
  T* As() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Gives back the pages of a mapped file that lie wholly in these bytes; they are read from the file again when touched.
void LetPagesGo(const void* data, size_t bytes);

}  // namespace tripos

#endif  // TRIPOS_UTIL_MEMORY_H_
