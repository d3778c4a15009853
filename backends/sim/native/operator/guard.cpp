// Streams and events as torch's generic code (torch.Stream, torch.Event, autograd, torch.accelerator) reaches them.
#include "guard.h"

#include "../machine/memory.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>

namespace portable::sim {
namespace {

struct Event {
  Clock clock;
  std::chrono::steady_clock::time_point time;
  bool timed = false;
};

std::vector<SynchronizeHook>& hooks() {
  static std::vector<SynchronizeHook> list;
  return list;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }

  c10::Device exchangeDevice(c10::Device device) const override {
    const auto before = getDevice();
    setDevice(device);
    return before;
  }

  c10::Device getDevice() const override { return c10::Device(kType, current_device()); }

  void setDevice(c10::Device device) const override {
    if (device.has_index()) set_current_device(device.index());
  }

  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0 && device.index() < num_devices()) set_current_device(device.index());
  }

  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(num_devices()); }

  c10::DeviceCapability getDeviceCapability(c10::Device) const override { return device_capability(); }

  c10::Stream getStream(c10::Device device) const override { return current_stream(device.index()); }
  c10::Stream getDefaultStream(c10::Device device) const override { return default_stream(device.index()); }
  c10::Stream getNewStream(c10::Device device, int) const override { return pool_stream(device.index()); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override { return pool_stream(device.index()); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return exchange_stream(stream); }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag flag) const override {
    if (*event == nullptr) *event = new Event{};
    auto* record = static_cast<Event*>(*event);
    record->clock = clock_of(stream);
    record->time = std::chrono::steady_clock::now();
    record->timed = flag == c10::EventFlag::BACKEND_DEFAULT;
  }

  void block(void* event, const c10::Stream& stream) const override {
    if (event != nullptr) stream_waits(stream, static_cast<Event*>(event)->clock);
  }

  void synchronizeEvent(void* event) const override {
    if (event != nullptr) host_waits(static_cast<Event*>(event)->clock);
  }

  // Work runs at once, so it is always done; whoever asks now knows.
  bool queryEvent(void* event) const override {
    synchronizeEvent(event);
    return true;
  }

  bool queryStream(const c10::Stream& stream) const override {
    synchronizeStream(stream);
    return true;
  }

  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }

  void synchronizeStream(const c10::Stream& stream) const override { host_waits(clock_of(stream)); }

  void synchronizeDevice(const c10::DeviceIndex index) const override { synchronize(index); }

  void recordDataPtrOnStream(const c10::DataPtr& pointer, const c10::Stream& stream) const override {
    allocator()->recordStream(pointer, stream);
  }

  double elapsedTime(void* start, void* end, const c10::DeviceIndex) const override {
    TORCH_CHECK(start != nullptr && end != nullptr, "elapsed_time needs two events that were recorded");
    const auto* first = static_cast<Event*>(start);
    const auto* last = static_cast<Event*>(end);
    TORCH_CHECK(first->timed && last->timed, "elapsed_time needs events made with enable_timing=True");
    return std::chrono::duration<double, std::milli>(last->time - first->time).count();
  }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

}  // namespace

void on_synchronize(SynchronizeHook hook) { hooks().push_back(hook); }

void synchronize(c10::DeviceIndex index) {
  index = resolve(index);
  for (auto hook : hooks()) hook(index);
  Clock all;
  for (int id = 0; id < kStreamsPerDevice; ++id) {
    const auto clock = clock_of(stream_of_lane(index * kStreamsPerDevice + id));
    if (all.size() < clock.size()) all.resize(clock.size());
    for (size_t lane = 0; lane < clock.size(); ++lane) all[lane] = std::max(all[lane], clock[lane]);
  }
  host_waits(all);
}

}  // namespace portable::sim
