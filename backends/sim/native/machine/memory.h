// Device memory: host memory with an owner, a byte budget, statistics, and contents that show when they are read before
// they were written.
#pragma once

#include "order.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Storage.h>

namespace portable::sim {

// What stands behind the data pointer of a device storage.
struct Block {
  void* data;
  size_t nbytes;
  c10::DeviceIndex device;
  History history;
  c10::Storage host;  // the CPU storage that was adopted, if it was
};

// The block behind a data pointer, or nullptr for memory of another origin or none.
Block* block_of(const c10::DataPtr& pointer);

// The use of `tensor`'s bytes; empty range if it has no memory.
std::optional<Touch> touch(const at::Tensor& tensor, bool write);

// Takes over the storage of a fresh CPU result of `step`. Raises OutOfMemoryError past the budget.
c10::DataPtr adopt(c10::Storage host, c10::DeviceIndex device, const Step& step, const char* op);

// Gives a storage `nbytes` of memory on its device, keeping what fits.
void resize_storage(const c10::Storage& storage, size_t nbytes);

// Bytes a device may hold; 0 is no limit but the host's memory.
void set_limit(c10::DeviceIndex device, size_t nbytes);

// Fresh memory: not-a-number for floating types, a large pattern for integers. bool is left as it is.
void fill_unwritten(void* data, size_t nbytes, c10::ScalarType dtype);
void fill_unwritten(const at::Tensor& host);
void set_fill(bool on);

c10::DeviceAllocator* allocator();

}  // namespace portable::sim
