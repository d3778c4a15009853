// Waiting for a whole device.
#pragma once

#include "../machine/device.h"

#include <c10/core/DeviceCapability.h>

namespace portable::sim {

// Called before the host waits for all streams of a device; the communicator completes its work there.
using SynchronizeHook = void (*)(c10::DeviceIndex index);
void on_synchronize(SynchronizeHook hook);

void synchronize(c10::DeviceIndex index);

// The number formats that the imitated chip has.
c10::DeviceCapability device_capability();

}  // namespace portable::sim
