// What the emulated CANN runtime knows: which chip it stands for, and what the calling thread did last.
//
// The functions in this folder are declared by the ACL headers that torch_npu ships, so a signature that changes
// with a release does not compile. Work is done when it is asked for: a stream is always in order and always done.
#pragma once

#include <acl/acl.h>
#include <acl/acl_op_compiler.h>
#include <acl/error_codes/rt_error_codes.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulation {

// The settings of `portable emulate`, read once from PORTABLE_ASCEND_*.
struct Machine {
  const char* soc_name;       // as aclrtGetSocName says it, e.g. "Ascend910B2"
  size_t memory_bytes;        // per device
  int64_t num_cube_cores;
  int64_t num_vector_cores;
  bool has_bf16;              // and, on these chips, infinities and NaN in arithmetic
  std::vector<int> visible;   // ASCEND_RT_VISIBLE_DEVICES: logical to physical
};

const Machine& machine();

// Remembers a message for aclGetRecentErrMsg and returns `code`.
[[gnu::format(printf, 2, 3)]] aclError fail(aclError code, const char* format, ...);

// The logical device of the calling thread, or -1 before aclrtSetDevice.
int current_device();

// Whether `pointer` lies in memory of a device, and of which.
int device_of(const void* pointer);

// Takes `size` bytes from the device's budget; false if they are not there.
bool take_memory(int device, size_t size);
void give_memory(int device, size_t size);

}  // namespace emulation
