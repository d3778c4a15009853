// Start and end, devices, contexts, versions, and the answers about the chip.
#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <regex>
#include <sstream>
#include <string>
#include <utility>

#include "state.h"

namespace emulation {
namespace {

thread_local std::string last_message;
thread_local aclError last_error = ACL_SUCCESS;
thread_local int thread_device = -1;
std::atomic<int> default_device = -1;  // for threads that set none; named by the file given to aclInit

const char* setting(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') {
    std::fprintf(stderr, "emulated CANN: %s is not set; start the program with `portable emulate ascend`\n", name);
    std::abort();
  }
  return text;
}

// As the driver does: a list of numbers, cut at the first that names no device.
std::vector<int> visible_devices(int count) {
  std::vector<int> devices;
  const char* text = std::getenv("ASCEND_RT_VISIBLE_DEVICES");
  if (text == nullptr) {
    for (int device = 0; device < count; ++device) devices.push_back(device);
    return devices;
  }
  std::stringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    char* end = nullptr;
    const long device = std::strtol(word.c_str(), &end, 10);
    const bool repeated = std::find(devices.begin(), devices.end(), device) != devices.end();
    if (end == word.c_str() || device < 0 || device >= count || repeated) break;
    devices.push_back(static_cast<int>(device));
  }
  return devices;
}

}  // namespace

const Machine& machine() {
  static const Machine known{
      setting("PORTABLE_ASCEND_SOC"),
      std::strtoull(setting("PORTABLE_ASCEND_MEMORY"), nullptr, 10),
      std::strtoll(setting("PORTABLE_ASCEND_CUBE_CORES"), nullptr, 10),
      std::strtoll(setting("PORTABLE_ASCEND_VECTOR_CORES"), nullptr, 10),
      std::strcmp(setting("PORTABLE_ASCEND_BF16"), "1") == 0,
      visible_devices(static_cast<int>(std::strtol(setting("PORTABLE_ASCEND_DEVICES"), nullptr, 10))),
  };
  return known;
}

aclError fail(aclError code, const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  last_message = std::string("emulated CANN: ") + text;
  last_error = code;
  return code;
}

int current_device() { return thread_device >= 0 ? thread_device : default_device.load(); }

}  // namespace emulation

using emulation::fail;
using emulation::machine;

namespace {

// A context is the address of its device's slot; a process has one per device.
int contexts[64];

bool known(int device) { return device >= 0 && device < static_cast<int>(machine().visible.size()); }

aclError no_such_device(int device) {
  return fail(ACL_ERROR_RT_INVALID_DEVICEID, "there is no device %d; there are %zu", device,
              machine().visible.size());
}

aclError core_count(uint32_t device, bool cube, int64_t* value) {
  if (!known(static_cast<int>(device))) return no_such_device(static_cast<int>(device));
  *value = cube ? machine().num_cube_cores : machine().num_vector_cores;
  return ACL_SUCCESS;
}

}  // namespace

extern "C" {

aclError emulated_cann_refuse(const char* function) {
  return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not emulated", function);
}

// For the emulated HCCL: torch_npu reads its reasons where it reads those of the runtime.
void emulated_cann_explain(const char* reason) { emulation::last_message = reason; }

aclError aclInit(const char* config_path) {
  if (config_path == nullptr) return ACL_SUCCESS;
  std::ifstream file(config_path);
  const std::string config{std::istreambuf_iterator<char>(file), {}};
  std::smatch found;
  if (std::regex_search(config, found, std::regex(R"re("default_device"\s*:\s*"(\d+)")re")))
    emulation::default_device = std::stoi(found[1]);
  return ACL_SUCCESS;
}
aclError aclFinalize() { return ACL_SUCCESS; }

const char* aclGetRecentErrMsg() {
  thread_local std::string handed_out;
  handed_out = std::exchange(emulation::last_message, "");
  return handed_out.c_str();
}

aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return emulation::last_error; }
aclError aclrtGetLastError(aclrtLastErrLevel) { return std::exchange(emulation::last_error, ACL_SUCCESS); }

void aclAppLog(aclLogLevel, const char*, const char*, uint32_t, const char*, ...) {}

aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = static_cast<uint32_t>(machine().visible.size());
  return ACL_SUCCESS;
}

aclError aclrtSetDevice(int32_t device) {
  if (!known(device)) return no_such_device(device);
  emulation::thread_device = device;
  return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t* device) {
  *device = emulation::current_device();
  if (*device < 0) return fail(ACL_ERROR_RT_CONTEXT_NULL, "this thread has set no device");
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t device) { return known(device) ? ACL_SUCCESS : no_such_device(device); }

aclError aclrtGetCurrentContext(aclrtContext* context) {
  int32_t device = 0;
  if (aclError error = aclrtGetDevice(&device)) return error;
  *context = &contexts[device];
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  const auto device = static_cast<int*>(context) - contexts;
  if (context == nullptr || device < 0 || !known(static_cast<int>(device)))
    return fail(ACL_ERROR_RT_CONTEXT_NULL, "aclrtSetCurrentContext got a context that is not of this process");
  return aclrtSetDevice(static_cast<int32_t>(device));
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t* flags, int32_t* active) {
  if (!known(device)) return no_such_device(device);
  if (flags != nullptr) *flags = 0;
  *active = 1;
  return ACL_SUCCESS;
}

aclError aclrtGetLogicDevIdByUserDevId(const int32_t user_device, int32_t* const logical_device) {
  if (!known(user_device)) return no_such_device(user_device);
  *logical_device = machine().visible[static_cast<size_t>(user_device)];
  return ACL_SUCCESS;
}

aclError aclrtDeviceCanAccessPeer(int32_t* can_access, int32_t device, int32_t peer) {
  if (!known(device)) return no_such_device(device);
  if (!known(peer)) return no_such_device(peer);
  *can_access = device != peer;
  return ACL_SUCCESS;
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
  return known(peer) ? ACL_SUCCESS : no_such_device(peer);
}

const char* aclrtGetSocName() { return machine().soc_name; }

aclError aclGetDeviceCapability(uint32_t device, aclDeviceInfo what, int64_t* value) {
  switch (what) {
    case ACL_DEVICE_INFO_AI_CORE_NUM:
      return core_count(device, true, value);
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
      return core_count(device, false, value);
    default:
      return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclGetDeviceCapability is not emulated for item %d", what);
  }
}

aclError aclrtGetDeviceInfo(uint32_t device, aclrtDevAttr what, int64_t* value) {
  switch (what) {
    case ACL_DEV_ATTR_AICORE_CORE_NUM:
    case ACL_DEV_ATTR_CUBE_CORE_NUM:
      return core_count(device, true, value);
    case ACL_DEV_ATTR_VECTOR_CORE_NUM:
      return core_count(device, false, value);
    case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE:
      *value = static_cast<int64_t>(machine().memory_bytes);
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_SMP_ID:  // all devices on one operating system
    case ACL_DEV_ATTR_IS_VIRTUAL:
      *value = 0;
      return ACL_SUCCESS;
    case ACL_DEV_ATTR_PHY_CHIP_ID:
      if (!known(static_cast<int>(device))) return no_such_device(static_cast<int>(device));
      *value = machine().visible[device];
      return ACL_SUCCESS;
    default:
      return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclrtGetDeviceInfo is not emulated for item %d", what);
  }
}

aclError aclrtDeviceGetUuid(int32_t device, aclrtUuid* uuid) {
  if (!known(device)) return no_such_device(device);
  std::memset(uuid, 0, sizeof *uuid);
  std::snprintf(uuid->bytes, sizeof uuid->bytes, "emulated-npu-%02d", machine().visible[static_cast<size_t>(device)]);
  return ACL_SUCCESS;
}

// One version for every part: the CANN release that torch_npu 2.13.0 is paired with.
aclError aclsysGetVersionStr(char*, char* version) {
  std::strcpy(version, std::getenv("PORTABLE_ASCEND_CANN"));
  return ACL_SUCCESS;
}

aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion* version) {
  std::memset(version, 0, sizeof *version);
  return aclsysGetVersionStr(nullptr, version->version);
}

aclError aclGetCannAttribute(aclCannAttr what, int32_t* value) {
  switch (what) {
    case ACL_CANN_ATTR_INF_NAN:
    case ACL_CANN_ATTR_BF16:
      *value = machine().has_bf16;
      return ACL_SUCCESS;
    default:
      return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclGetCannAttribute is not emulated for item %d", what);
  }
}

// Settings that change speed, rounding or failure handling on a chip, and nothing here.
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t* actual) {
  *actual = timeout;
  return ACL_SUCCESS;
}
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }

namespace {
std::mutex options_mutex;
std::map<int, int64_t> system_options;  // determinism and the like: kept for whoever asks; everything here is exact
std::map<int, std::string> options;     // of the operator compiler: kept, never used
const char* option_or_default(aclCompileOpt option) {
  auto found = options.find(option);
  if (found != options.end()) return found->second.c_str();
  return option == ACL_PRECISION_MODE ? "must_keep_origin_dtype" : "";
}
}  // namespace

aclError aclrtSetSysParamOpt(aclSysParamOpt option, int64_t value) {
  std::lock_guard lock(options_mutex);
  system_options[option] = value;
  return ACL_SUCCESS;
}
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt option, int64_t value) { return aclrtSetSysParamOpt(option, value); }
aclError aclrtGetSysParamOpt(aclSysParamOpt option, int64_t* value) {
  std::lock_guard lock(options_mutex);
  *value = system_options[option];
  return ACL_SUCCESS;
}

aclError aclSetCompileopt(aclCompileOpt option, const char* value) {
  std::lock_guard lock(options_mutex);
  options[option] = value == nullptr ? "" : value;
  return ACL_SUCCESS;
}

size_t aclGetCompileoptSize(aclCompileOpt option) {
  std::lock_guard lock(options_mutex);
  return std::strlen(option_or_default(option)) + 1;
}

aclError aclGetCompileopt(aclCompileOpt option, char* value, size_t length) {
  std::lock_guard lock(options_mutex);
  if (std::strlen(option_or_default(option)) >= length)
    return fail(ACL_ERROR_INVALID_PARAM, "aclGetCompileopt: %zu bytes are too few", length);
  std::strcpy(value, option_or_default(option));
  return ACL_SUCCESS;
}

}  // extern "C"
