// Failures inside the library: thrown where found, turned into a status and a message at the C interface.
#ifndef TRIPOS_UTIL_ERROR_H_
#define TRIPOS_UTIL_ERROR_H_

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace tripos {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// printf into a message.
[[gnu::format(printf, 1, 2)]] inline std::string Format(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return text;
}

inline void Require(bool holds, const char* message) {
  if (!holds) throw Error(message);
}

}  // namespace tripos

#endif  // TRIPOS_UTIL_ERROR_H_
