#include "redispatch.h"

#include "host_call.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <mutex>

namespace portable {

namespace {

std::atomic<Policy*> policy{nullptr};

// For a random operator that takes no generator: while it lives, the CPU's default generator has the state of the device's.
class BorrowedDefaultGenerator {
 public:
  explicit BorrowedDefaultGenerator(const at::Generator& device) : lock_(mutex()), device_(device) { exchange(); }
  ~BorrowedDefaultGenerator() { exchange(); }
  BorrowedDefaultGenerator(const BorrowedDefaultGenerator&) = delete;
  BorrowedDefaultGenerator& operator=(const BorrowedDefaultGenerator&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex only;
    return only;
  }

  void exchange() {
    auto* host = at::check_generator<at::CPUGeneratorImpl>(at::detail::getDefaultCPUGenerator());
    auto* device = at::check_generator<at::CPUGeneratorImpl>(device_);
    std::scoped_lock both(host->mutex_, device->mutex_);
    const auto engine = host->engine();
    const auto float_sample = host->next_float_normal_sample();
    const auto double_sample = host->next_double_normal_sample();
    host->set_engine(device->engine());
    host->set_next_float_normal_sample(device->next_float_normal_sample());
    host->set_next_double_normal_sample(device->next_double_normal_sample());
    device->set_engine(engine);
    device->set_next_float_normal_sample(float_sample);
    device->set_next_double_normal_sample(double_sample);
  }

  std::lock_guard<std::mutex> lock_;
  at::Generator device_;
};

bool draws_without_generator(const c10::OperatorHandle& op) {
  if (!op.hasTag(at::Tag::nondeterministic_seeded)) {
    return false;
  }
  for (const auto& argument : op.schema().arguments()) {
    if (argument.name() == "generator") {
      return false;
    }
  }
  return true;
}

}  // namespace

void Policy::resize(const c10::Storage& storage, size_t num_bytes) {
  at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(storage, num_bytes);
}

void install(Policy* chosen) { policy.store(chosen); }

Policy& installed_policy() {
  Policy* chosen = policy.load(std::memory_order_relaxed);
  TORCH_CHECK(chosen != nullptr, "portable::install was not called before the first operator");
  return *chosen;
}

void call_cpu_kernel(const c10::OperatorHandle& op, Stack* stack) {
  if (C10_UNLIKELY(draws_without_generator(op))) {
    BorrowedDefaultGenerator borrowed(installed_policy().host_generator(std::nullopt));
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  } else {
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
}

void run_with(const c10::OperatorHandle& op, Stack* stack, HostKernel kernel) {
  check_same_device(op, *stack);
  Policy& device = installed_policy();
  device.before(op, *stack);
  // Nothing below may record gradients or cast: that happened on the way to this kernel.
  const c10::impl::ExcludeDispatchKeyGuard plain(
      c10::autograd_dispatch_keyset_with_ADInplaceOrView | c10::DispatchKeySet(c10::DispatchKey::AutocastCPU));
  HostCall call(op, c10::impl::VirtualGuardImpl(kDevice).getDevice());
  call.lend(stack);
  kernel(op, stack);
  call.hand_back(stack);
  device.after(op, *stack);
}

// Conjugate and negative bits travel with the aliases. Without these rows torch resolves the bits before _copy_from by a
// clone, which calls _copy_from: an endless recursion.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
  m.impl("_copy_from_and_resize", torch::CppFunction::makeFallthrough());
}
TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
  m.impl("_copy_from_and_resize", torch::CppFunction::makeFallthrough());
}

void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, Stack* stack) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU), op.operator_name(), " has no CPU kernel, so the device '",
      c10::DeviceTypeName(kDevice, true), "', which computes with the CPU's kernels, cannot run it");
  run_with(op, stack, &call_cpu_kernel);
}

}  // namespace portable
