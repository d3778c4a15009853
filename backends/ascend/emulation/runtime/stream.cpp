// Streams and events. Work is done at the call, so a stream has nothing to wait for; what is kept is what can be
// asked: numbers, times, whether an event was recorded, and which handles are alive.
#include <chrono>
#include <map>
#include <mutex>

#include "state.h"

namespace {

using Clock = std::chrono::steady_clock;
using emulation::fail;

struct Event {
  bool recorded = false;
  Clock::time_point time;
};

std::mutex mutex;
std::map<aclrtStream, int32_t> streams;  // handle to number
std::map<aclrtEvent, Event> events;
int32_t num_streams = 0;
intptr_t num_handles = 0;

// Handles are numbers, never reused: a handle of something destroyed is known to be dead.
void* new_handle() { return reinterpret_cast<void*>(++num_handles << 4); }

aclError check(aclrtStream stream) {
  if (stream == nullptr || streams.count(stream)) return ACL_SUCCESS;  // nullptr is the default stream
  return fail(ACL_ERROR_RT_STREAM_CONTEXT, "stream %p was never made or is destroyed", stream);
}

aclError check_event(aclrtEvent event) {
  if (events.count(event)) return ACL_SUCCESS;
  return fail(ACL_ERROR_RT_PARAM_INVALID, "event %p was never made or is destroyed", event);
}

aclError synchronize(aclrtStream stream) {
  std::lock_guard lock(mutex);
  return check(stream);
}

aclError destroy(aclrtStream stream) {
  std::lock_guard lock(mutex);
  if (aclError error = check(stream)) return error;
  streams.erase(stream);
  return ACL_SUCCESS;
}

aclError make_event(aclrtEvent* event) {
  std::lock_guard lock(mutex);
  *event = new_handle();
  events[*event] = {};
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
  std::lock_guard lock(mutex);
  *stream = new_handle();
  streams[*stream] = ++num_streams;
  return ACL_SUCCESS;
}
aclError aclrtCreateStream(aclrtStream* stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) { return destroy(stream); }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return destroy(stream); }

aclError aclrtStreamGetId(aclrtStream stream, int32_t* number) {
  std::lock_guard lock(mutex);
  if (aclError error = check(stream)) return error;
  *number = stream == nullptr ? 0 : streams[stream];
  return ACL_SUCCESS;
}

aclError aclrtStreamQuery(aclrtStream stream, aclrtStreamStatus* status) {
  *status = ACL_STREAM_STATUS_COMPLETE;
  return synchronize(stream);
}

aclError aclrtSynchronizeStream(aclrtStream stream) { return synchronize(stream); }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) { return synchronize(stream); }
aclError aclrtSynchronizeDevice() { return ACL_SUCCESS; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return ACL_SUCCESS; }

aclError aclrtSetStreamFailureMode(aclrtStream stream, uint64_t) { return synchronize(stream); }
aclError aclrtSetStreamAttribute(aclrtStream stream, aclrtStreamAttr, aclrtStreamAttrValue*) {
  return synchronize(stream);
}
aclError aclrtSetStreamOverflowSwitch(aclrtStream stream, uint32_t) { return synchronize(stream); }
aclError aclrtGetStreamOverflowSwitch(aclrtStream stream, uint32_t* flag) {
  *flag = 0;
  return synchronize(stream);
}

aclError aclrtLaunchHostFunc(aclrtStream stream, aclrtHostFunc function, void* argument) {
  if (aclError error = synchronize(stream)) return error;
  function(argument);
  return ACL_SUCCESS;
}
aclError aclrtLaunchCallback(aclrtCallback function, void* argument, aclrtCallbackBlockType, aclrtStream stream) {
  return aclrtLaunchHostFunc(stream, function, argument);
}
aclError aclrtSubscribeReport(uint64_t, aclrtStream stream) { return synchronize(stream); }
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream stream) { return synchronize(stream); }
aclError aclrtProcessReport(int32_t) {
  return fail(ACL_ERROR_WAIT_CALLBACK_TIMEOUT, "a callback runs when it is launched; there is none to process");
}

// No graph is ever being captured: aclmdlRICaptureBegin is not here, so torch_npu says that it is missing.
aclError aclmdlRICaptureGetInfo(aclrtStream stream, aclmdlRICaptureStatus* status, aclmdlRI* model) {
  *status = ACL_MODEL_RI_CAPTURE_STATUS_NONE;
  *model = nullptr;
  return synchronize(stream);
}

aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t) { return make_event(event); }
aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t) { return make_event(event); }

aclError aclrtDestroyEvent(aclrtEvent event) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(event)) return error;
  events.erase(event);
  return ACL_SUCCESS;
}

aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(event)) return error;
  if (aclError error = check(stream)) return error;
  events[event] = {true, Clock::now()};
  return ACL_SUCCESS;
}

aclError aclrtResetEvent(aclrtEvent event, aclrtStream stream) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(event)) return error;
  if (aclError error = check(stream)) return error;
  events[event] = {};
  return ACL_SUCCESS;
}

aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  std::lock_guard lock(mutex);
  if (aclError error = check(stream)) return error;
  return check_event(event);
}

aclError aclrtSynchronizeEvent(aclrtEvent event) {
  std::lock_guard lock(mutex);
  return check_event(event);
}

aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus* status) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(event)) return error;
  *status = events[event].recorded ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus* status) {
  std::lock_guard lock(mutex);
  *status = ACL_EVENT_WAIT_STATUS_COMPLETE;
  return check_event(event);
}

// The time of the host between two records: what an event measures, but of this machine.
aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent start, aclrtEvent end) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(start)) return error;
  if (aclError error = check_event(end)) return error;
  if (!events[start].recorded || !events[end].recorded)
    return fail(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "aclrtEventElapsedTime: an event was not recorded");
  *milliseconds = std::chrono::duration<float, std::milli>(events[end].time - events[start].time).count();
  return ACL_SUCCESS;
}

aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* microseconds) {
  std::lock_guard lock(mutex);
  if (aclError error = check_event(event)) return error;
  const auto since_start = events[event].time.time_since_epoch();
  *microseconds = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(since_start).count());
  return ACL_SUCCESS;
}

}  // extern "C"
