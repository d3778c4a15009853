#include "order.h"

#include "transfer.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <sstream>

namespace portable::sim {
namespace {

constexpr int kNumLanes = kMaxDevices * kStreamsPerDevice;
constexpr size_t kMaxAccesses = 64;
constexpr int32_t kErrorCode = 1;

std::mutex order_mutex;  // guards everything below and every History
bool checked = true;
std::array<Clock, kNumLanes> clocks;
std::array<uint64_t, kNumLanes> host_seen{};  // the host version that a lane has learnt
Clock host;
uint64_t host_version = 1;

struct Freed {
  int home;
  Step use;
  const char* op;
};
std::vector<Freed> freed;  // blocks whose users their home streams have not waited for

void merge(Clock& into, const Clock& from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t lane = 0; lane < from.size(); ++lane) into[lane] = std::max(into[lane], from[lane]);
}

bool knows(const Clock& clock, const Step& step) {
  return static_cast<size_t>(step.lane) < clock.size() && clock[step.lane] >= step.number;
}

Clock& refreshed(int lane) {
  auto& clock = clocks[lane];
  if (host_seen[lane] != host_version) {
    merge(clock, host);
    host_seen[lane] = host_version;
  }
  return clock;
}

void forget_ordered(const Clock& clock, int home) {
  freed.erase(std::remove_if(freed.begin(), freed.end(),
                             [&](const Freed& block) { return block.home == home && knows(clock, block.use); }),
              freed.end());
}

std::string shape_of(const at::Tensor& tensor) {
  std::ostringstream text;
  text << "a tensor " << tensor.sizes() << " of " << tensor.scalar_type();
  return text.str();
}

std::string missing_wait(const Access& old, const Step& step, const char* op, const Touch& touch) {
  const auto before = describe(stream_of_lane(old.step.lane));
  const auto now = describe(stream_of_lane(step.lane));
  std::ostringstream text;
  text << op << " on " << now << (touch.write ? " writes " : " reads ")
       << (touch.tensor != nullptr ? shape_of(*touch.tensor) : "memory") << " that " << old.op << " on " << before
       << (old.write ? " writes" : " reads") << ", and nothing makes the first wait for the second. Before " << op
       << ", let " << now << " wait for " << before
       << ": stream.wait_stream(other), stream.wait_event(event) with an event recorded after " << old.op
       << ", work.wait() for a collective, or a synchronize()";
  return text.str();
}

bool conflict(const Access& old, const Step& step, const Touch& touch) {
  return old.step.lane != step.lane && (old.write || touch.write) && old.begin < touch.end && touch.begin < old.end;
}

// Keeps the history short: what a new access covers on its own lane, or writes over, tells nothing more.
void enter(History& history, const Access& fresh) {
  auto& accesses = history.accesses;
  accesses.erase(std::remove_if(accesses.begin(), accesses.end(),
                                [&](const Access& old) {
                                  const bool covered = fresh.begin <= old.begin && old.end <= fresh.end;
                                  const bool same = old.step.lane == fresh.step.lane && (fresh.write || !old.write);
                                  return covered && (same || fresh.write);
                                }),
                 accesses.end());
  if (accesses.size() >= kMaxAccesses) {
    for (auto& old : accesses) {
      if (old.step.lane != fresh.step.lane || old.write != fresh.write) continue;
      old = {fresh.step, std::min(old.begin, fresh.begin), std::max(old.end, fresh.end), fresh.write, fresh.op};
      return;
    }
  }
  accesses.push_back(fresh);
}

}  // namespace

void fail(const std::string& message) {
  throw c10::AcceleratorError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, kErrorCode, message);
}

int lane_of(const c10::Stream& stream) {
  return stream.device_index() * kStreamsPerDevice + static_cast<int>(stream.id());
}

c10::Stream stream_of_lane(int lane) {
  const auto index = static_cast<c10::DeviceIndex>(lane / kStreamsPerDevice);
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(kType, index), lane % kStreamsPerDevice);
}

void set_order_checked(bool on) {
  std::lock_guard<std::mutex> lock(order_mutex);
  checked = on;
  freed.clear();
}

bool order_checked() { return checked; }

Step launch(const c10::Stream& stream, const char* op, const std::vector<Touch>& touches) {
  std::lock_guard<std::mutex> lock(order_mutex);
  const int lane = lane_of(stream);
  auto& clock = refreshed(lane);
  if (clock.size() <= static_cast<size_t>(lane)) clock.resize(lane + 1);
  const Step step{lane, ++clock[lane]};
  for (const auto& touch : touches) {
    if (checked) {
      for (const auto& old : touch.history->accesses) {
        if (conflict(old, step, touch) && !knows(clock, old.step)) fail(missing_wait(old, step, op, touch));
      }
    }
    enter(*touch.history, {step, touch.begin, touch.end, touch.write, op});
  }
  return step;
}

void reused(const c10::Stream& stream) {
  std::lock_guard<std::mutex> lock(order_mutex);
  if (freed.empty()) return;
  const int home = lane_of(stream);
  forget_ordered(refreshed(home), home);
  const auto early = std::find_if(freed.begin(), freed.end(), [&](const Freed& block) { return block.home == home; });
  if (early == freed.end()) return;
  const auto other = describe(stream_of_lane(early->use.lane));
  const auto here = describe(stream);
  const auto message = c10::str("an allocation on ", here, " may get memory that was freed there while ", early->op, " on ",
                                other, " may still use it. Call tensor.record_stream(stream) with the stream that uses it "
                                "before the tensor dies, or let ", here, " wait for ", other, " before it allocates");
  freed.clear();
  fail(message);
}

void born(History& history, const Step& step, int64_t nbytes, const char* op) {
  std::lock_guard<std::mutex> lock(order_mutex);
  history.home = step.lane;
  history.accesses.push_back({step, 0, nbytes, true, op});
}

void released(const History& history) {
  std::lock_guard<std::mutex> lock(order_mutex);
  if (!checked) return;
  const auto& clock = refreshed(history.home);
  for (const auto& use : history.accesses) {
    const auto& kept = history.kept_for;
    if (use.step.lane == history.home || knows(clock, use.step)) continue;
    if (std::find(kept.begin(), kept.end(), use.step.lane) != kept.end()) continue;
    freed.push_back({history.home, use.step, use.op});
  }
}

void keep_for(History& history, const c10::Stream& stream) {
  std::lock_guard<std::mutex> lock(order_mutex);
  history.kept_for.push_back(lane_of(stream));
}

Clock clock_of(const c10::Stream& stream) {
  std::lock_guard<std::mutex> lock(order_mutex);
  return refreshed(lane_of(stream));
}

void stream_waits(const c10::Stream& stream, const Clock& clock) {
  std::lock_guard<std::mutex> lock(order_mutex);
  merge(refreshed(lane_of(stream)), clock);
}

void host_waits(const Clock& clock) {
  {
    std::lock_guard<std::mutex> lock(order_mutex);
    merge(host, clock);
    ++host_version;
  }
  settle_transfers();
}

bool host_knows(const Step& step) {
  std::lock_guard<std::mutex> lock(order_mutex);
  return knows(host, step);
}

bool ordered_before(const Step& step, const c10::Stream& stream) {
  std::lock_guard<std::mutex> lock(order_mutex);
  const int lane = lane_of(stream);
  return lane == step.lane || knows(refreshed(lane), step);
}

}  // namespace portable::sim
