#include "memory.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/alloc_cpu.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <mutex>

namespace portable::sim {
namespace {

constexpr int kNanByte = 0xFF;      // all ones is a NaN in every floating format but the fnuz ones
constexpr int kIntegerByte = 0xA5;  // int64: -6510615555426900571; uint8: 165

std::mutex memory_mutex;
bool fill = true;

size_t host_bytes() {
  static const size_t total = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
  return total;
}

std::string in_units(size_t nbytes) {
  char text[48];
  if (nbytes >= (1u << 30)) {
    snprintf(text, sizeof(text), "%.2f GiB", static_cast<double>(nbytes) / (1u << 30));
  } else if (nbytes >= (1u << 20)) {
    snprintf(text, sizeof(text), "%.2f MiB", static_cast<double>(nbytes) / (1u << 20));
  } else {
    snprintf(text, sizeof(text), "%zu bytes", nbytes);
  }
  return text;
}

void release(void* context);

// Models a caching allocator without fragmentation: what was once reserved stays so until empty_cache.
class Memory final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t nbytes) override {
    const auto device = current_device();
    if (nbytes == 0) return {nullptr, c10::Device(kType, device)};
    reused(current_stream(device));
    charge(device, nbytes);
    auto* block = new Block{c10::alloc_cpu(nbytes), nbytes, device, {}, {}};
    block->history.home = lane_of(current_stream(device));
    fill_unwritten(block->data, nbytes, c10::kFloat);  // the type is not known yet; not-a-number is the likeliest to show
    return {block->data, block, &release, c10::Device(kType, device)};
  }

  void charge(c10::DeviceIndex device, size_t nbytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto& stats = stats_[device];
    const auto used = static_cast<size_t>(stats.allocated_bytes[0].current);
    const size_t limit = limit_[device];
    if (limit > 0 && used + nbytes > limit) {
      ++stats.num_ooms;
      const auto where = c10::Device(kType, device).str();
      TORCH_CHECK_WITH(OutOfMemoryError, false, where, " (", chip(), ") is out of memory: ", in_units(nbytes),
                       " were asked for, ", in_units(used), " of its ", in_units(limit), " are in use, ",
                       in_units(limit - used),
                       " are free. Use a smaller batch, sharding or recomputation, or give the device more memory");
    }
    stats.allocation[0].increase(1);
    stats.active[0].increase(1);
    stats.allocated_bytes[0].increase(nbytes);
    stats.active_bytes[0].increase(nbytes);
    stats.requested_bytes[0].increase(nbytes);
    const auto grown = stats.allocated_bytes[0].current - stats.reserved_bytes[0].current;
    if (grown > 0) {
      stats.reserved_bytes[0].increase(grown);
      ++stats.num_device_alloc;
    }
  }

  void discharge(c10::DeviceIndex device, size_t nbytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto& stats = stats_[device];
    stats.allocation[0].decrease(1);
    stats.active[0].decrease(1);
    stats.allocated_bytes[0].decrease(nbytes);
    stats.active_bytes[0].decrease(nbytes);
    stats.requested_bytes[0].decrease(nbytes);
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* dest, const void* src, size_t count) const override { default_copy_data(dest, src, count); }
  bool initialized() override { return true; }

  void emptyCache(c10::MempoolId_t) override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    for (auto& stats : stats_) {
      const auto unused = stats.reserved_bytes[0].current - stats.allocated_bytes[0].current;
      if (unused == 0) continue;
      stats.reserved_bytes[0].decrease(unused);
      ++stats.num_device_free;
    }
  }

  void recordStream(const c10::DataPtr& pointer, c10::Stream stream) override {
    if (auto* block = block_of(pointer)) keep_for(block->history, stream);
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    return stats_[resolve(device)];
  }

  void resetAccumulatedStats(c10::DeviceIndex device) override {
    for_each_stat(device, [](c10::CachingAllocator::Stat& stat) { stat.reset_accumulated(); });
  }

  void resetPeakStats(c10::DeviceIndex device) override {
    for_each_stat(device, [](c10::CachingAllocator::Stat& stat) { stat.reset_peak(); });
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
    std::lock_guard<std::mutex> lock(memory_mutex);
    device = resolve(device);
    const size_t total = limit_[device] > 0 ? limit_[device] : host_bytes();
    const auto used = static_cast<size_t>(stats_[device].allocated_bytes[0].current);
    return {total - std::min(total, used), total};
  }

  void set_limit(c10::DeviceIndex device, size_t nbytes) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    limit_[resolve(device)] = nbytes;
  }

 private:
  template <typename F>
  void for_each_stat(c10::DeviceIndex device, F change) {
    std::lock_guard<std::mutex> lock(memory_mutex);
    auto& stats = stats_[resolve(device)];
    for (auto* array : {&stats.allocation, &stats.active, &stats.allocated_bytes, &stats.active_bytes,
                        &stats.requested_bytes, &stats.reserved_bytes}) {
      change((*array)[0]);
    }
  }

  std::array<c10::CachingDeviceAllocator::DeviceStats, kMaxDevices> stats_;
  std::array<size_t, kMaxDevices> limit_{};
};

Memory& memory() {
  static auto* instance = new Memory();  // storages outlive static destruction
  return *instance;
}

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  released(block->history);
  memory().discharge(block->device, block->nbytes);
  if (!block->host) c10::free_cpu(block->data);
  delete block;
}

const c10::AllocatorRegisterer<kType> registered_memory(&memory());

}  // namespace

Block* block_of(const c10::DataPtr& pointer) { return pointer.cast_context<Block>(&release); }

std::optional<Touch> touch(const at::Tensor& tensor, bool write) {
  const auto& storage = tensor.unsafeGetTensorImpl()->unsafe_storage();
  if (!storage || tensor.numel() == 0) return std::nullopt;
  auto* block = block_of(storage.data_ptr());
  if (block == nullptr) return std::nullopt;
  const auto size = static_cast<int64_t>(tensor.element_size());
  const auto begin = tensor.storage_offset() * size;
  const auto extent = static_cast<int64_t>(at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), size));
  return Touch{&block->history, begin, begin + extent, write, &tensor};
}

c10::DataPtr adopt(c10::Storage host, c10::DeviceIndex device, const Step& step, const char* op) {
  const size_t nbytes = host.nbytes();
  if (nbytes == 0) return {nullptr, c10::Device(kType, device)};
  reused(stream_of_lane(step.lane));
  memory().charge(device, nbytes);
  void* data = host.mutable_data();
  auto* block = new Block{data, nbytes, device, {}, std::move(host)};
  born(block->history, step, static_cast<int64_t>(nbytes), op);
  return {data, block, &release, c10::Device(kType, device)};
}

void resize_storage(const c10::Storage& storage, size_t nbytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  if (impl->nbytes() == nbytes) return;
  const c10::DeviceGuard guard(impl->device());
  auto fresh = memory().allocate(nbytes);
  const size_t kept = std::min(impl->nbytes(), nbytes);
  if (kept > 0) {
    std::vector<Touch> touches;
    const auto extent = static_cast<int64_t>(kept);
    if (auto* old = block_of(impl->data_ptr())) touches.push_back({&old->history, 0, extent, false, nullptr});
    touches.push_back({&block_of(fresh)->history, 0, extent, true, nullptr});
    launch(current_stream(impl->device().index()), "resize of a storage", touches);
    std::memcpy(fresh.get(), impl->data(), kept);
  }
  impl->set_data_ptr_noswap(std::move(fresh));
  impl->set_nbytes(nbytes);
}

void set_limit(c10::DeviceIndex device, size_t nbytes) { memory().set_limit(device, nbytes); }

void set_fill(bool on) { fill = on; }

void fill_unwritten(void* data, size_t nbytes, c10::ScalarType dtype) {
  if (!fill || dtype == c10::kBool || nbytes == 0) return;
  const bool floating = c10::isFloatingType(dtype) || c10::isComplexType(dtype);
  if (dtype == c10::kFloat8_e4m3fnuz || dtype == c10::kFloat8_e5m2fnuz) {
    std::memset(data, 0x80, nbytes);  // their one NaN
  } else {
    std::memset(data, floating ? kNanByte : kIntegerByte, nbytes);
  }
}

void fill_unwritten(const at::Tensor& host) {
  if (!fill || host.scalar_type() == c10::kBool) return;
  auto unwritten = at::empty({1}, host.options());
  fill_unwritten(unwritten.mutable_data_ptr(), unwritten.nbytes(), host.scalar_type());
  host.copy_(unwritten.expand_as(host));
}

c10::DeviceAllocator* allocator() { return &memory(); }

}  // namespace portable::sim
