#include "policy.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <cstring>

namespace emulation {

namespace {

// Philox offsets advance by multiples of four; torch_npu's own kernels take this many for one call.
constexpr uint64_t kOffsetsPerCall = 12;

// Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators": one step of SplitMix64.
uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15ULL;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ULL;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBULL;
  return value ^ (value >> 31);
}

}  // namespace

AscendPolicy& policy() {
  static AscendPolicy only;
  return only;
}

at::Tensor AscendPolicy::adopt(const at::Tensor& host, c10::Device device) {
  at::Tensor result = at::empty_strided(host.sizes(), host.strides(), host.options().device(device));
  if (host.storage().nbytes() > 0) {
    std::memcpy(result.storage().mutable_data(), host.storage().data(), host.storage().nbytes());
  }
  return result;
}

// The chip's generator is a seed and an offset, which is what torch_npu saves and restores. Every call draws from a host
// generator that these two determine, and moves the offset on.
at::Generator AscendPolicy::host_generator(const std::optional<at::Generator>& generator) {
  const bool given = generator.has_value() && generator->defined();
  at::Generator device = given ? *generator : at::globalContext().defaultGenerator(c10::Device(c10::kPrivateUse1));
  TORCH_CHECK(
      device.device().type() == c10::kPrivateUse1, "Expected a 'npu' device type for generator but found '",
      device.device(), "'");
  std::scoped_lock lock(device.mutex());
  const uint64_t offset = device.unsafeGetGeneratorImpl()->get_offset();
  const uint64_t seed = device.current_seed();
  device.unsafeGetGeneratorImpl()->set_offset(offset + kOffsetsPerCall);
  return at::make_generator<at::CPUGeneratorImpl>(mix(seed ^ mix(offset)));
}

void AscendPolicy::deny(const std::string& name, at::ScalarType dtype, const std::string& reason) {
  denials_[name].push_back({dtype, reason});
}

void AscendPolicy::check_rules(const std::string& rules, const std::string& name, at::ScalarType dtype) const {
  const auto found = denials_.find(rules);
  if (found == denials_.end()) {
    return;
  }
  for (const Denial& denial : found->second) {
    TORCH_CHECK_NOT_IMPLEMENTED(denial.dtype != dtype, name, " does not take ", dtype, ": ", denial.reason);
  }
}

void AscendPolicy::check(const std::string& name, at::ScalarType dtype) const {
  check_rules("*", name, dtype);
  check_rules(name, name, dtype);
}

void AscendPolicy::before(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  if (denials_.empty()) {
    return;
  }
  const auto& name = op.operator_name().name;
  for (const c10::IValue& value : torch::jit::last(stack, op.schema().arguments().size())) {
    if (value.isTensor() && value.toTensor().defined()) {
      check(name, value.toTensor().scalar_type());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorList().vec()) {
        check(name, tensor.scalar_type());
      }
    }
  }
}

}  // namespace emulation
