// What one simulated machine consists of: devices, and for each a fixed number of streams.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <string>

namespace portable::sim {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;
constexpr int kMaxDevices = 16;

// Stream ids of one device. As on real runtimes the pool is finite: the 33rd stream is the first one again.
constexpr int kDefaultStream = 0;
constexpr int kNumPoolStreams = 32;
constexpr int kNumCommunicatorStreams = 31;
constexpr int kStreamsPerDevice = 1 + kNumPoolStreams + kNumCommunicatorStreams;

int num_devices();
void set_num_devices(int count);

// The chip that is imitated, as messages name it.
const std::string& chip();
void set_chip(std::string name);

c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);

// -1 means the current device.
c10::DeviceIndex resolve(c10::DeviceIndex index);

// Streams are current for a thread, per device.
c10::Stream current_stream(c10::DeviceIndex index);
c10::Stream exchange_stream(c10::Stream stream);
c10::Stream default_stream(c10::DeviceIndex index);
c10::Stream pool_stream(c10::DeviceIndex index);
c10::Stream communicator_stream(c10::DeviceIndex index);

// "the default stream of sim:0", "stream 3 of sim:1"
std::string describe(const c10::Stream& stream);

}  // namespace portable::sim
