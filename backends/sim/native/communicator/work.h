// A collective under way: the bytes travel on the transport's threads, its place among the device's work is a stream.
#pragma once

#include "../machine/order.h"

#include <torch/csrc/distributed/c10d/Work.hpp>

#include <functional>
#include <string>

namespace portable::sim {

class DeviceWork final : public c10d::Work {
 public:
  struct Description {
    std::string name;  // "all_reduce on rank 0 of 2, group '...', simccl"
    c10::Stream stream;
    c10d::OpType type;
  };

  // `finish` runs once when the bytes have arrived; `held` must live until then.
  DeviceWork(Description description, c10::intrusive_ptr<c10d::Work> transport, std::vector<at::Tensor> outputs,
             std::vector<at::Tensor> held, std::function<void()> finish);

  // Blocks until the bytes are here, then makes the current stream wait for the collective's.
  bool wait(std::chrono::milliseconds timeout) override;
  void synchronize() override { wait(kNoTimeout); }
  bool isCompleted() override;
  bool isSuccess() const override { return finished_ && !error_; }
  std::vector<at::Tensor> result() override { return outputs_; }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

  // Blocks until the bytes are here. Raises DistBackendError with the name of the collective, rank and group.
  void complete(std::chrono::milliseconds timeout = kNoTimeout);

 private:
  void finish();
  std::exception_ptr explained(const std::string& reason) const;

  Description description_;
  Clock clock_;  // of its stream, when it was launched
  c10::intrusive_ptr<c10d::Work> transport_;
  std::vector<at::Tensor> outputs_;
  std::vector<at::Tensor> held_;
  std::function<void()> on_finish_;
  std::mutex finish_mutex_;
  std::atomic<bool> finished_{false};
  std::exception_ptr error_;
  c10::intrusive_ptr<c10::ivalue::Future> future_;
};

// Several collectives that are waited for as one.
class GroupWork final : public c10d::Work {
 public:
  explicit GroupWork(std::vector<c10::intrusive_ptr<c10d::Work>> parts) : parts_(std::move(parts)) {}

  bool wait(std::chrono::milliseconds timeout) override;
  void synchronize() override { wait(kNoTimeout); }
  bool isCompleted() override;
  bool isSuccess() const override;
  std::vector<at::Tensor> result() override;
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override;

 private:
  std::vector<c10::intrusive_ptr<c10d::Work>> parts_;
};

// Keeps work that nobody has waited for until the host waits for the whole device.
void remember(c10::intrusive_ptr<DeviceWork> work);

}  // namespace portable::sim
