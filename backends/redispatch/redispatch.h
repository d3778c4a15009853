// One boxed kernel for a device whose memory the host can read: every operator runs as the CPU's kernel on the same bytes.
//
// A device library (the simulated accelerator, the Ascend emulator) links the sources of this folder, installs one Policy
// and registers `run_on_host` for the operators that it wants computed this way, then `register_stand_ins`.
//
// Refused, by name: operators without a CPU kernel, sparse, quantised and nested tensors, operands on two devices.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <torch/library.h>

namespace portable {

// What differs between devices. All calls come on the thread that dispatched the operator, possibly several at once.
struct Policy {
  virtual ~Policy() = default;

  // Makes a tensor on `device` of a fresh CPU result; may take over its storage. `host` fills its storage exactly
  // (no gaps, no overlap, offset 0), with the strides that the result must have.
  virtual at::Tensor adopt(const at::Tensor& host, c10::Device device) = 0;

  // Called with the operator and its still untouched arguments; throws what the device would refuse
  // (a number format or operator that it lacks, a missing wait between streams, ...).
  virtual void before(const c10::OperatorHandle& op, const torch::jit::Stack& stack) = 0;

  // Called with the results in place of the arguments, before control returns to the caller.
  virtual void after(const c10::OperatorHandle& op, const torch::jit::Stack& stack) = 0;

  // The CPU generator that holds the state of `generator`, or of the current device's default one if it is undefined.
  virtual at::Generator host_generator(const std::optional<at::Generator>& generator) = 0;

  // Changes the size of a device storage in place and keeps its bytes; by default through the device's hooks.
  virtual void resize(const c10::Storage& storage, size_t num_bytes);
};

void install(Policy* policy);
Policy& installed_policy();

// The same bytes as a CPU tensor: no copy; sizes, strides, offset, conjugate and negative bits are kept. A tensor that is
// not on the device is returned as it is. Two calls give two storages: their overlap is not known to torch.
at::Tensor host_alias(const at::Tensor& tensor);

// The boxed kernel.
void run_on_host(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack);

// Registers the operators that torch sends only to accelerators, so that the CPU has no kernel for them
// (convolution_overrideable, the fused LSTM cell, dropout by the device's generator, ...). `aten` is a library of
// namespace aten and key PrivateUse1; call it after registering `run_on_host`, whose rows it may replace.
void register_stand_ins(torch::Library& aten);

// The names of those operators, without the namespace.
std::vector<std::string> stand_in_names();

// Registers the CPU's fused attention as the device's. Torch uses it if the device's _fused_sdp_choice_stub is
// `choose_attention`, which answers with torch's SDPBackend: fused where the CPU would fuse. A device without composes
// attention of matrix products.
void register_attention(torch::Library& aten);
int64_t choose_attention(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const std::optional<at::Tensor>& mask,
    double dropout_p, bool is_causal, std::optional<double> scale, bool enable_gqa);

}  // namespace portable
