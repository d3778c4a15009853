#include "work.h"

#include "../operator/guard.h"

#include <ATen/core/jit_type.h>
#include <c10/core/StreamGuard.h>

#include <deque>

namespace portable::sim {
namespace {

std::mutex works_mutex;
std::deque<c10::intrusive_ptr<DeviceWork>> unfinished;

void complete_all(c10::DeviceIndex) {
  std::deque<c10::intrusive_ptr<DeviceWork>> works;
  {
    std::lock_guard<std::mutex> lock(works_mutex);
    works.swap(unfinished);
  }
  for (const auto& work : works) work->complete();
}

const bool completes_on_synchronize = [] {
  on_synchronize(&complete_all);
  return true;
}();

}  // namespace

DeviceWork::DeviceWork(Description description, c10::intrusive_ptr<c10d::Work> transport, std::vector<at::Tensor> outputs,
                       std::vector<at::Tensor> held, std::function<void()> finish)
    : Work(-1, description.type),
      description_(std::move(description)),
      clock_(clock_of(description_.stream)),
      transport_(std::move(transport)),
      outputs_(std::move(outputs)),
      held_(std::move(held)),
      on_finish_(std::move(finish)) {}

void DeviceWork::finish() {
  std::lock_guard<std::mutex> lock(finish_mutex_);
  if (finished_) return;
  if (on_finish_) on_finish_();
  on_finish_ = nullptr;
  held_.clear();
  finished_ = true;
}

std::exception_ptr DeviceWork::explained(const std::string& reason) const {
  const auto first_line = reason.substr(0, reason.find('\n'));
  return std::make_exception_ptr(
      c10::DistBackendError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, description_.name + " failed: " + first_line));
}

void DeviceWork::complete(std::chrono::milliseconds timeout) {
  if (error_) std::rethrow_exception(error_);
  if (finished_) return;
  try {
    transport_->wait(timeout);
  } catch (const std::exception& error) {
    error_ = explained(error.what());
    held_.clear();
    std::rethrow_exception(error_);
  }
  finish();
}

bool DeviceWork::wait(std::chrono::milliseconds timeout) {
  complete(timeout);
  if (opType_ == c10d::OpType::BARRIER) {
    host_waits(clock_);  // a barrier holds the host up, on real communicators too
  } else {
    stream_waits(current_stream(description_.stream.device_index()), clock_);
  }
  return true;
}

bool DeviceWork::isCompleted() {
  if (!finished_ && !error_ && transport_->isCompleted()) {
    try {
      complete();
    } catch (const c10::Error&) {  // kept for whoever waits
    }
  }
  return finished_ || error_ != nullptr;
}

c10::intrusive_ptr<c10::ivalue::Future> DeviceWork::getFuture() {
  if (future_) return future_;
  future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()),
                                                     std::vector<c10::Device>{description_.stream.device()});
  auto self = c10::intrusive_ptr<DeviceWork>::reclaim_copy(this);
  transport_->getFuture()->addCallback([self](c10::ivalue::Future& arrived) {
    if (arrived.hasError()) {
      self->future_->setError(self->explained(arrived.tryRetrieveErrorMessage()));
      return;
    }
    self->finish();
    const c10::StreamGuard on_stream(self->description_.stream);
    self->future_->markCompleted(c10::IValue(self->outputs_));
  });
  return future_;
}

bool GroupWork::wait(std::chrono::milliseconds timeout) {
  for (const auto& part : parts_) part->wait(timeout);
  return true;
}

bool GroupWork::isCompleted() {
  return std::all_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->isCompleted(); });
}

bool GroupWork::isSuccess() const {
  return std::all_of(parts_.begin(), parts_.end(), [](const auto& part) { return part->isSuccess(); });
}

std::vector<at::Tensor> GroupWork::result() {
  std::vector<at::Tensor> all;
  for (const auto& part : parts_) {
    for (auto& tensor : part->result()) all.push_back(std::move(tensor));
  }
  return all;
}

c10::intrusive_ptr<c10::ivalue::Future> GroupWork::getFuture() {
  c10::List<c10::intrusive_ptr<c10::ivalue::Future>> futures(c10::FutureType::create(c10::ListType::ofTensors()));
  for (const auto& part : parts_) futures.push_back(part->getFuture());
  return c10::collectAll(futures);
}

void remember(c10::intrusive_ptr<DeviceWork> work) {
  std::lock_guard<std::mutex> lock(works_mutex);
  while (!unfinished.empty() && unfinished.front()->isCompleted()) unfinished.pop_front();
  unfinished.push_back(std::move(work));
}

}  // namespace portable::sim
