#include "device.h"

#include <c10/util/Exception.h>

#include <array>
#include <atomic>

namespace portable::sim {
namespace {

int device_count = 1;
std::string chip_name = "sim";
thread_local c10::DeviceIndex this_device = 0;
thread_local std::array<c10::StreamId, kMaxDevices> this_stream{};
std::array<std::atomic<int>, kMaxDevices> pool_next{};
std::array<std::atomic<int>, kMaxDevices> communicator_next{};

c10::Stream stream_of(c10::DeviceIndex index, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, index), id);
}

void check(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < device_count, "device index ", static_cast<int>(index), " was asked for; ", chip_name,
              " has ", device_count, " devices here, numbered from 0");
}

}  // namespace

int num_devices() { return device_count; }

void set_num_devices(int count) {
  TORCH_CHECK(count >= 1 && count <= kMaxDevices, "num_devices=", count, "; use 1 to ", kMaxDevices);
  device_count = count;
}

const std::string& chip() { return chip_name; }

void set_chip(std::string name) { chip_name = std::move(name); }

c10::DeviceIndex current_device() { return this_device; }

void set_current_device(c10::DeviceIndex index) {
  check(index);
  this_device = index;
}

c10::DeviceIndex resolve(c10::DeviceIndex index) {
  if (index < 0) return this_device;
  check(index);
  return index;
}

c10::Stream current_stream(c10::DeviceIndex index) {
  index = resolve(index);
  return stream_of(index, this_stream[index]);
}

c10::Stream exchange_stream(c10::Stream stream) {
  const auto index = resolve(stream.device_index());
  const auto before = this_stream[index];
  this_stream[index] = stream.id();
  return stream_of(index, before);
}

c10::Stream default_stream(c10::DeviceIndex index) { return stream_of(resolve(index), kDefaultStream); }

c10::Stream pool_stream(c10::DeviceIndex index) {
  index = resolve(index);
  return stream_of(index, 1 + pool_next[index]++ % kNumPoolStreams);
}

c10::Stream communicator_stream(c10::DeviceIndex index) {
  index = resolve(index);
  return stream_of(index, 1 + kNumPoolStreams + communicator_next[index]++ % kNumCommunicatorStreams);
}

std::string describe(const c10::Stream& stream) {
  const auto device = stream.device().str();
  if (stream.id() == kDefaultStream) return "the default stream of " + device;
  if (stream.id() > kNumPoolStreams) return "the communicator's stream " + std::to_string(stream.id()) + " of " + device;
  return "stream " + std::to_string(stream.id()) + " of " + device;
}

}  // namespace portable::sim
