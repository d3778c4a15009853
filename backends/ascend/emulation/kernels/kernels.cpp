// Replaces torch_npu's kernels: what it computes with CANN is computed by the host on the same bytes, or refused.
//
// Nothing is replaced when this library is loaded; Python calls the functions below with the operators' names, because
// only there the registered operators can be listed.
#include <ATen/ops/_copy_from_and_resize_native.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_to_copy_native.h>
#include <ATen/ops/clone_native.h>
#include <torch/library.h>

#include <list>
#include <map>

#include "policy.h"

namespace emulation {

namespace {

// Replacing a kernel makes torch warn; here it is the purpose.
struct Silence final : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

torch::Library& library(
    const std::string& name_space, c10::DispatchKey key = c10::DispatchKey::PrivateUse1) {
  static std::list<torch::Library> libraries;
  static std::map<std::pair<std::string, c10::DispatchKey>, torch::Library*> known;
  torch::Library*& found = known[{name_space, key}];
  if (found == nullptr) {
    libraries.emplace_back(torch::Library::IMPL, name_space, key, __FILE__, __LINE__);
    found = &libraries.back();
  }
  return *found;
}

void refuse(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, op.operator_name(), ": the emulator has no verified reference for this operator of the chip, so it ",
      "refuses it instead of computing something else");
}

template <c10::BoxedKernel::BoxedKernelFunction_withDispatchKeys* kernel>
void replace(const std::string& name_space, const std::vector<std::string>& names) {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  for (const std::string& name : names) {
    library(name_space).impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<kernel>());
  }
}

// Copies and casts between the host and a device, or on a device; also between devices.
at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  if (self.scalar_type() != source.scalar_type()) {
    policy().check("aten::copy_", self.scalar_type());
    policy().check("aten::copy_", source.scalar_type());
  }
  portable::host_alias(self).copy_(portable::host_alias(source), non_blocking);
  return self;
}

at::Scalar local_scalar_dense(const at::Tensor& self) {
  return at::_local_scalar_dense(portable::host_alias(self));
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& target) {
  at::Tensor result = target;
  result.resize_(self.sizes());
  return copy_(result, self, false);
}

void replace_copies() {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  torch::Library& aten = library("aten");
  aten.impl("copy_", &copy_);
  aten.impl("_copy_from_and_resize", &copy_from_and_resize);
  aten.impl("_local_scalar_dense", &local_scalar_dense);
  // torch's own compositions of an allocation and copy_.
  aten.impl("_to_copy", &at::native::_to_copy);
  aten.impl("clone", &at::native::clone);
}

// torch's own gradient rule, or composition, for operators where torch_npu put one that goes straight to the chip.
void torch_autograd(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  op.getComputedKernelForDispatchKey(c10::DispatchKey::AutogradCPU).callBoxed(op, keys, stack);
}

void restore_autograd(const std::vector<std::string>& names) {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  for (const std::string& name : names) {
    library("aten", c10::DispatchKey::AutogradPrivateUse1)
        .impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&torch_autograd>());
  }
}

const c10::SafeKernelFunction& loss_of_torch_npu() {
  static const c10::SafeKernelFunction kernel =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("aten::binary_cross_entropy_with_logits", "")
          .getComputedKernelForDispatchKey(c10::DispatchKey::AutogradPrivateUse1);
  return kernel;
}

// torch_npu's rule for this loss has no gradient for the target: a caller who asks for one would silently get none.
void refuse_target_gradient(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const at::Tensor target = torch::jit::peek(*stack, 1, op.schema().arguments().size()).toTensor();
  TORCH_CHECK_NOT_IMPLEMENTED(
      !(target.requires_grad() && at::GradMode::is_enabled()), op.operator_name(),
      ": torch_npu computes no gradient for target, although it requires one; detach it");
  loss_of_torch_npu().callBoxed(op, keys, stack);
}

void guard_gradients() {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  loss_of_torch_npu();  // before it is replaced
  library("aten", c10::DispatchKey::AutogradPrivateUse1)
      .impl("binary_cross_entropy_with_logits", torch::CppFunction::makeFromBoxedFunction<&refuse_target_gradient>());
}

void replace_stand_ins() {
  Silence silence;
  c10::WarningUtils::WarningHandlerGuard guard(&silence);
  portable::register_stand_ins(library("aten"));
}

void deny(const std::string& name, at::ScalarType dtype, const std::string& reason) {
  policy().deny(name, dtype, reason);
}

TORCH_LIBRARY(portable_ascend, m) {
  portable::install(&policy());
  m.def("run_on_host(str name_space, str[] names) -> ()", &replace<&portable::run_on_host>);
  m.def("refuse(str name_space, str[] names) -> ()", &replace<&refuse>);
  m.def("replace_copies() -> ()", &replace_copies);
  m.def("guard_gradients() -> ()", &guard_gradients);
  m.def("restore_autograd(str[] names) -> ()", &restore_autograd);
  m.def("replace_stand_ins() -> ()", &replace_stand_ins);
  m.def("stand_in_names() -> str[]", &portable::stand_in_names);
  m.def("deny(str name, ScalarType dtype, str reason) -> ()", &deny);
}

}  // namespace

}  // namespace emulation
