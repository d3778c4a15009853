// One call of an operator on the host: what was lent to it and how results come back.
#pragma once

#include "redispatch.h"

#include <c10/util/SmallVector.h>

namespace portable {

using Stack = torch::jit::Stack;
using HostKernel = void (*)(const c10::OperatorHandle& op, Stack* stack);

constexpr c10::DeviceType kDevice = c10::DeviceType::PrivateUse1;

inline bool on_device(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kDevice;
}

// Runs `kernel` on aliases of the device tensors of `stack` and hands its results back as device tensors.
void run_with(const c10::OperatorHandle& op, Stack* stack, HostKernel kernel);

// The plain kernel: the CPU's own.
void call_cpu_kernel(const c10::OperatorHandle& op, Stack* stack);

// Throws if the operands live on more devices than a real accelerator would accept.
void check_same_device(const c10::OperatorHandle& op, const Stack& stack);

// A CPU storage over the bytes of `device`, which it keeps alive.
c10::Storage alias_storage(const c10::Storage& device);

// A CPU tensor with the geometry and bits of `device` over `storage`.
at::Tensor alias_tensor(const at::Tensor& device, c10::Storage storage);

// A device tensor with the geometry and bits of `host` over `storage`; `base` gives the dispatch keys.
at::Tensor device_view(const at::Tensor& host, const c10::Storage& storage, const at::Tensor& base);

// Aliases of the arguments of one call. Tensors that share a storage on the device share one on the host, so that
// torch's own checks for overlap and its views hold.
class HostCall {
 public:
  HostCall(const c10::OperatorHandle& op, c10::Device current) : op_(op), target_(current) {}

  // Replaces the arguments on top of the stack by what the CPU's kernel may take.
  void lend(Stack* stack);

  // Replaces the results on top of the stack by device tensors, after carrying changes of the written arguments over.
  void hand_back(Stack* stack);

 private:
  struct Operand {
    at::Tensor device;
    at::Tensor host;
    size_t storage;  // index into storages_
    bool written;
  };
  struct LentStorage {
    c10::Storage device;
    c10::Storage host;
  };
  struct Adopted {
    c10::Storage host;
    at::Tensor device;
  };

  c10::IValue lend_value(const c10::IValue& value, const c10::Argument& argument);
  at::Tensor lend_tensor(const at::Tensor& tensor, const c10::Argument& argument);
  size_t lend_storage(const c10::Storage& storage);
  const LentStorage* find_lent(const c10::Storage& host) const;
  void settle(Operand& operand);
  void settle_storage(LentStorage& lent);
  c10::IValue return_value(const c10::IValue& value);
  at::Tensor return_tensor(const at::Tensor& host);
  at::Tensor adopt(const at::Tensor& host);

  const c10::OperatorHandle& op_;
  c10::Device target_;        // where fresh results go
  bool results_stay_ = false;  // the call names a device that is not ours
  bool has_target_ = false;
  c10::SmallVector<Operand, 4> operands_;
  c10::SmallVector<LentStorage, 4> storages_;
  c10::SmallVector<at::Tensor, 2> host_arguments_;
  c10::SmallVector<Adopted, 2> adopted_;
};

}  // namespace portable
