// Device memory is host memory with a budget per device, so that kernels of the host can read it in place.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "state.h"

namespace emulation {
namespace {

constexpr size_t kAlignment = 512;  // of aclrtMalloc

struct Block {
  size_t size;
  int device;
};

// Memory obtained by aclrtMallocPhysical: pages without an address.
struct Physical {
  int file;
  size_t size;
  int device;
};

std::mutex mutex;
std::map<uintptr_t, Block> blocks;       // everything that has a device address
std::map<uintptr_t, size_t> reserved;    // address ranges of aclrtReserveMemAddress
std::set<void*> pinned;                  // aclrtMallocHost
std::map<int, size_t> used;

uintptr_t address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

const Block* find(const void* pointer) {
  auto after = blocks.upper_bound(address(pointer));
  if (after == blocks.begin()) return nullptr;
  auto& [start, block] = *std::prev(after);
  return address(pointer) < start + block.size ? &block : nullptr;
}

bool take(int device, size_t size) {
  if (size > machine().memory_bytes - used[device]) return false;
  used[device] += size;
  return true;
}

aclError out_of_memory(int device, size_t size) {
  return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "device %d has %zu of %zu bytes left; %zu were asked for", device,
              machine().memory_bytes - used[device], machine().memory_bytes, size);
}

aclError allocate(void** pointer, size_t size) {
  int device = current_device();
  if (device < 0) return fail(ACL_ERROR_RT_CONTEXT_NULL, "aclrtMalloc: this thread has set no device");
  if (size == 0) return fail(ACL_ERROR_INVALID_PARAM, "aclrtMalloc: the size is 0");
  size = (size + kAlignment - 1) / kAlignment * kAlignment;
  std::lock_guard lock(mutex);
  if (!take(device, size)) return out_of_memory(device, size);
  *pointer = std::aligned_alloc(kAlignment, size);
  if (*pointer == nullptr) {
    used[device] -= size;
    return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "this machine has no %zu bytes left for device %d", size, device);
  }
  blocks[address(*pointer)] = {size, device};
  return ACL_SUCCESS;
}

// Which end of a copy must lie on a device.
aclError check_sides(const void* to, const void* from, aclrtMemcpyKind kind) {
  const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  if (to_device && device_of(to) < 0)
    return fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemcpy of kind %d writes to %p, which is not on a device", kind, to);
  if (from_device && device_of(from) < 0)
    return fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemcpy of kind %d reads %p, which is not on a device", kind, from);
  return ACL_SUCCESS;
}

aclError copy(void* to, size_t room, const void* from, size_t size, aclrtMemcpyKind kind) {
  if (size > room) return fail(ACL_ERROR_INVALID_PARAM, "aclrtMemcpy: %zu bytes do not fit into %zu", size, room);
  if (size == 0) return ACL_SUCCESS;
  if (aclError error = check_sides(to, from, kind)) return error;
  std::memmove(to, from, size);
  return ACL_SUCCESS;
}

}  // namespace

int device_of(const void* pointer) {
  std::lock_guard lock(mutex);
  const Block* block = find(pointer);
  return block == nullptr ? -1 : block->device;
}

}  // namespace emulation

using namespace emulation;

extern "C" {

aclError aclrtMalloc(void** pointer, size_t size, aclrtMemMallocPolicy) { return allocate(pointer, size); }
aclError aclrtMallocAlign32(void** pointer, size_t size, aclrtMemMallocPolicy) { return allocate(pointer, size); }

aclError aclrtFree(void* pointer) {
  std::lock_guard lock(emulation::mutex);
  auto block = blocks.find(address(pointer));
  if (block == blocks.end() || reserved.count(address(pointer)))
    return fail(ACL_ERROR_RT_MEMORY_FREE, "aclrtFree: %p did not come from aclrtMalloc", pointer);
  used[block->second.device] -= block->second.size;
  blocks.erase(block);
  std::free(pointer);
  return ACL_SUCCESS;
}

aclError aclrtGetMemInfo(aclrtMemAttr, size_t* free_bytes, size_t* total_bytes) {
  int32_t device = 0;
  if (aclError error = aclrtGetDevice(&device)) return error;
  std::lock_guard lock(emulation::mutex);
  *total_bytes = machine().memory_bytes;
  *free_bytes = machine().memory_bytes - used[device];
  return ACL_SUCCESS;
}

aclError aclrtMallocHost(void** pointer, size_t size) {
  *pointer = std::aligned_alloc(64, (size + 63) / 64 * 64);
  if (*pointer == nullptr) return fail(ACL_ERROR_BAD_ALLOC, "aclrtMallocHost: no %zu bytes of host memory", size);
  std::lock_guard lock(emulation::mutex);
  pinned.insert(*pointer);
  return ACL_SUCCESS;
}

aclError aclrtMallocHostWithCfg(void** pointer, uint64_t size, aclrtMallocConfig*) {
  return aclrtMallocHost(pointer, size);
}

aclError aclrtFreeHost(void* pointer) {
  std::lock_guard lock(emulation::mutex);
  if (pinned.erase(pointer) == 0)
    return fail(ACL_ERROR_RT_MEMORY_FREE, "aclrtFreeHost: %p did not come from aclrtMallocHost", pointer);
  std::free(pointer);
  return ACL_SUCCESS;
}

aclError aclrtPointerGetAttributes(const void* pointer, aclrtPtrAttributes* attributes) {
  std::memset(attributes, 0, sizeof *attributes);
  const int device = device_of(pointer);
  std::lock_guard lock(emulation::mutex);
  if (device >= 0)
    attributes->location = {static_cast<uint32_t>(device), ACL_MEM_LOCATION_TYPE_DEVICE};
  else if (pinned.count(const_cast<void*>(pointer)))
    attributes->location = {0, ACL_MEM_LOCATION_TYPE_HOST};
  else
    attributes->location = {0, ACL_MEM_LOCATION_TYPE_UNREGISTERED};
  attributes->pageSize = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  return ACL_SUCCESS;
}

aclError aclrtMemcpy(void* to, size_t room, const void* from, size_t size, aclrtMemcpyKind kind) {
  return copy(to, room, from, size, kind);
}
aclError aclrtMemcpyAsync(void* to, size_t room, const void* from, size_t size, aclrtMemcpyKind kind, aclrtStream) {
  return copy(to, room, from, size, kind);
}
aclError aclrtMemcpyAsyncWithCondition(void* to, size_t room, const void* from, size_t size, aclrtMemcpyKind kind,
                                       aclrtStream) {
  return copy(to, room, from, size, kind);
}

aclError aclrtMemset(void* pointer, size_t room, int32_t value, size_t size) {
  if (size > room) return fail(ACL_ERROR_INVALID_PARAM, "aclrtMemset: %zu bytes do not fit into %zu", size, room);
  std::memset(pointer, value, size);
  return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void* pointer, size_t room, int32_t value, size_t size, aclrtStream) {
  return aclrtMemset(pointer, room, value, size);
}

// Virtual memory, for torch_npu's expandable segments: an address range first, pages for parts of it later.

aclError aclrtReserveMemAddress(void** pointer, size_t size, size_t, void* wish, uint64_t) {
  void* range = mmap(wish, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "no address range of %zu bytes is free", size);
  std::lock_guard lock(emulation::mutex);
  reserved[address(range)] = size;
  *pointer = range;
  return ACL_SUCCESS;
}

aclError aclrtReleaseMemAddress(void* pointer) {
  std::lock_guard lock(emulation::mutex);
  auto range = reserved.find(address(pointer));
  if (range == reserved.end()) return fail(ACL_ERROR_INVALID_PARAM, "aclrtReleaseMemAddress: %p is not reserved", pointer);
  munmap(pointer, range->second);
  reserved.erase(range);
  return ACL_SUCCESS;
}

aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t size, const aclrtPhysicalMemProp* wanted, uint64_t) {
  const int device = static_cast<int>(wanted->location.id);
  std::lock_guard lock(emulation::mutex);
  if (!take(device, size)) return out_of_memory(device, size);
  const int file = memfd_create("emulated-npu", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(size)) != 0) {
    if (file >= 0) close(file);
    used[device] -= size;
    return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "this machine has no %zu bytes left for device %d", size, device);
  }
  *handle = new Physical{file, size, device};
  return ACL_SUCCESS;
}

aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  auto* pages = static_cast<Physical*>(handle);
  std::lock_guard lock(emulation::mutex);
  used[pages->device] -= pages->size;
  close(pages->file);
  delete pages;
  return ACL_SUCCESS;
}

aclError aclrtMapMem(void* pointer, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t) {
  auto* pages = static_cast<Physical*>(handle);
  void* mapped = mmap(pointer, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, pages->file,
                      static_cast<off_t>(offset));
  if (mapped == MAP_FAILED) return fail(ACL_ERROR_INVALID_PARAM, "aclrtMapMem: %zu bytes at %p", size, pointer);
  std::lock_guard lock(emulation::mutex);
  blocks[address(pointer)] = {size, pages->device};
  return ACL_SUCCESS;
}

aclError aclrtUnmapMem(void* pointer) {
  std::lock_guard lock(emulation::mutex);
  auto block = blocks.find(address(pointer));
  if (block == blocks.end()) return fail(ACL_ERROR_INVALID_PARAM, "aclrtUnmapMem: %p is not mapped", pointer);
  mmap(pointer, block->second.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  blocks.erase(block);
  return ACL_SUCCESS;
}

}  // extern "C"
