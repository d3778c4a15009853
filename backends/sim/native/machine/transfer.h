// Copies between the device and pinned host memory that the host did not wait for.
//
// Until the host has waited (synchronize, event.synchronize, a blocking read), a real copy may not have happened yet. To the
// device: changing the source is an error, reported at the wait. From the device: the destination holds not-a-number, and
// gets its values at the wait.
#pragma once

#include "order.h"

namespace portable::sim {

// Pinned host memory: who is asked for a pointer answers from a register of what was allocated here.
void* pinned_allocate(size_t nbytes);
void pinned_free(void* data);
bool is_pinned(const void* data);
size_t pinned_bytes();

// `source` is being copied to the device by `step`.
void watch_source(const Step& step, const at::Tensor& source);

// `values` will be in `destination` once the host knows that `step` is done.
void deliver_later(const Step& step, const at::Tensor& destination, at::Tensor values);

// Makes what earlier copies bring to `source` visible to work on `stream`. Raises AcceleratorError if `stream` does not wait
// for them.
void complete_before_read(const at::Tensor& source, const c10::Stream& stream);

// Delivers and checks whatever the host now knows to be done.
void settle_transfers();

}  // namespace portable::sim
