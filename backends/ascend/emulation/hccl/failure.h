// What went wrong inside the library: an HCCL code for the caller's branch and a sentence for its reader.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include <third_party/hccl/inc/hccl/hccl_types.h>

namespace hccl {

struct Failure : std::runtime_error {
  Failure(HcclResult code, const std::string& text) : std::runtime_error(text), code(code) {}
  HcclResult code;
};

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// Throw unless `condition` holds: for what a caller passed in.
template <typename... Parts>
void require(bool condition, HcclResult code, const Parts&... parts) {
  if (!condition) throw Failure(code, text(parts...));
}

}  // namespace hccl
