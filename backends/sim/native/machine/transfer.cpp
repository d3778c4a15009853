#include "transfer.h"

#include "memory.h"

#include <ATen/ATen.h>
#include <c10/core/impl/alloc_cpu.h>

#include <cstring>
#include <deque>
#include <map>
#include <mutex>

namespace portable::sim {
namespace {

constexpr size_t kMaxPending = 512;  // older ones count as done, so that a program that never waits does not hold all memory

struct Transfer {
  Step step;
  at::Tensor host;
  at::Tensor values;  // what comes (from the device) or what was sent (to it)
  bool from_device;
};

std::mutex transfer_mutex;
std::deque<Transfer> pending;
std::map<const char*, size_t> pinned;

bool same_bytes(const at::Tensor& left, const at::Tensor& right) {
  const auto now = left.contiguous();
  return std::memcmp(now.const_data_ptr(), right.const_data_ptr(), right.nbytes()) == 0;
}

void settle(const Transfer& transfer) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (transfer.from_device) {
    transfer.host.copy_(transfer.values);
  } else if (!same_bytes(transfer.host, transfer.values)) {
    fail(c10::str("a pinned host tensor ", transfer.host.sizes(), " of ", transfer.host.scalar_type(),
                  " was changed while a non_blocking copy of it on ", describe(stream_of_lane(transfer.step.lane)),
                  " may still have been running. Wait for the copy before changing its source: record an event after it and "
                  "call event.synchronize(), or synchronize()"));
  }
}

void push(Transfer transfer) {
  std::optional<Transfer> oldest;
  {
    std::lock_guard<std::mutex> lock(transfer_mutex);
    pending.push_back(std::move(transfer));
    if (pending.size() > kMaxPending) {
      oldest = std::move(pending.front());
      pending.pop_front();
    }
  }
  if (oldest) settle(*oldest);
}

template <typename F>
std::deque<Transfer> take(F due) {
  std::lock_guard<std::mutex> lock(transfer_mutex);
  std::deque<Transfer> taken;
  std::deque<Transfer> kept;
  for (auto& transfer : pending) (due(transfer) ? taken : kept).push_back(std::move(transfer));
  pending.swap(kept);
  return taken;
}

}  // namespace

void* pinned_allocate(size_t nbytes) {
  void* data = c10::alloc_cpu(nbytes);
  std::lock_guard<std::mutex> lock(transfer_mutex);
  pinned[static_cast<const char*>(data)] = nbytes;
  return data;
}

void pinned_free(void* data) {
  {
    std::lock_guard<std::mutex> lock(transfer_mutex);
    pinned.erase(static_cast<const char*>(data));
  }
  c10::free_cpu(data);
}

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(transfer_mutex);
  const auto* place = static_cast<const char*>(data);
  auto next = pinned.upper_bound(place);
  if (next == pinned.begin()) return false;
  --next;
  return place < next->first + next->second;
}

size_t pinned_bytes() {
  std::lock_guard<std::mutex> lock(transfer_mutex);
  size_t total = 0;
  for (const auto& [data, nbytes] : pinned) total += nbytes;
  return total;
}

void watch_source(const Step& step, const at::Tensor& source) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (order_checked()) push({step, source, source.clone(at::MemoryFormat::Contiguous), false});
}

void deliver_later(const Step& step, const at::Tensor& destination, at::Tensor values) {
  if (!order_checked()) {
    destination.copy_(values);
    return;
  }
  fill_unwritten(destination);
  push({step, destination, std::move(values), true});
}

void complete_before_read(const at::Tensor& source, const c10::Stream& stream) {
  const auto due = take(
      [&](const Transfer& transfer) { return transfer.from_device && transfer.host.is_alias_of(source); });
  for (const auto& transfer : due) {
    if (!ordered_before(transfer.step, stream)) {
      fail(c10::str("a copy on ", describe(stream), " reads pinned host memory that a non_blocking copy on ",
                    describe(stream_of_lane(transfer.step.lane)),
                    " fills, and nothing makes the first wait for the second. Let ", describe(stream),
                    " wait for the other stream, or synchronize()"));
    }
    settle(transfer);
  }
}

void settle_transfers() {
  for (const auto& transfer : take([](const Transfer& item) { return host_knows(item.step); })) settle(transfer);
}

}  // namespace portable::sim
