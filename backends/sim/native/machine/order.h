// Which work is known to come before which: the happens-before relation of streams, kept as vector clocks
// (Mattern 1989, "Virtual time and global states of distributed systems").
//
// Every stream is a lane. Work on a lane gets the lane's next number. A lane's clock holds, for every lane, the number of
// the last work that is known to be done when the lane's next work starts. Waiting merges clocks; the host has a clock too,
// which all later launches learn. The simulator runs work at once, so a program that forgets to wait computes the right
// numbers here and wrong ones on hardware: that is what is detected.
#pragma once

#include "device.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace portable::sim {

using Clock = std::vector<uint64_t>;

struct Step {
  int lane = 0;
  uint64_t number = 0;
};

// One use of a byte range [begin, end) of a memory block.
struct Access {
  Step step;
  int64_t begin;
  int64_t end;
  bool write;
  const char* op;
};

// How a memory block has been used. `home` is the lane that allocated it; memory that was freed goes to that lane's next
// allocation, so uses on other lanes must be done by then, or the block be kept for them by record_stream.
struct History {
  int home = 0;
  std::vector<Access> accesses;
  std::vector<int> kept_for;
};

struct Touch {
  History* history;
  int64_t begin;
  int64_t end;
  bool write;
  const at::Tensor* tensor;  // for the message
};

// Checks are on by default; switched off, everything counts as ordered.
void set_order_checked(bool on);
bool order_checked();

// Starts work named `op` on `stream`. Raises AcceleratorError if it touches what another stream uses without a wait between
// them, or if memory was freed too early before. `op` must live as long as the process.
Step launch(const c10::Stream& stream, const char* op, const std::vector<Touch>& touches);

// Memory is taken for new work on `stream`, which may get what was freed there. Raises AcceleratorError if something freed
// may still be in use on another stream by then.
void reused(const c10::Stream& stream);

// Enters a fresh block that `step` fills.
void born(History& history, const Step& step, int64_t nbytes, const char* op);

// Notes a block's end of life, and the uses on other streams that the home stream has not waited for yet.
void released(const History& history);

void keep_for(History& history, const c10::Stream& stream);

Clock clock_of(const c10::Stream& stream);
void stream_waits(const c10::Stream& stream, const Clock& clock);

// The host has waited for all that is in `clock`.
void host_waits(const Clock& clock);
bool host_knows(const Step& step);
bool ordered_before(const Step& step, const c10::Stream& stream);

// Raises torch's error of an accelerator.
[[noreturn]] void fail(const std::string& message);

int lane_of(const c10::Stream& stream);
c10::Stream stream_of_lane(int lane);

}  // namespace portable::sim
