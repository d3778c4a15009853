#include "host_call.h"

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <cstring>

namespace portable {

namespace {

bool written(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

void check_kind(const c10::OperatorHandle& op, const at::Tensor& tensor, const char* role) {
  const char* kind = nullptr;
  if (tensor.layout() != c10::kStrided) {
    kind = "sparse or opaque";
  } else if (tensor.is_quantized()) {
    kind = "quantised";
  } else if (tensor.unsafeGetTensorImpl()->is_nested()) {
    kind = "nested";
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      kind == nullptr, op.operator_name().name, ": ", role, " is a ", kind, " tensor; the device '",
      c10::DeviceTypeName(kDevice, true), "' holds plain strided tensors only");
}

// A storage that was emptied (as sharded training does between uses) must not be read.
void check_filled(const c10::OperatorHandle& op, const at::Tensor& tensor, const c10::Argument& argument) {
  const size_t needed = at::detail::computeStorageNbytes(
      tensor.sizes(), tensor.strides(), tensor.dtype().itemsize(), tensor.storage_offset());
  if (C10_LIKELY(needed <= tensor.storage().nbytes())) {
    return;
  }
  const bool is_view = argument.alias_info() != nullptr && !argument.alias_info()->isWrite();
  const bool is_output = written(argument) && argument.kwarg_only();
  const bool moves_metadata = written(argument) &&
      (op.hasTag(at::Tag::inplace_view) || op.operator_name().name.find("resize") != std::string::npos ||
       op.operator_name().name == "aten::set_");
  TORCH_CHECK(
      is_view || is_output || moves_metadata, op.operator_name().name, ": ", argument.name(), " needs ", needed,
      " bytes but its storage holds ", tensor.storage().nbytes(), "; the storage was resized while this tensor used it");
}

}  // namespace

void HostCall::lend(Stack* stack) {
  const auto& arguments = op_.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[first + i];
    const bool plain = value.isInt() || value.isDouble() || value.isBool() || value.isIntList();
    if (!plain) {
      value = lend_value(value, arguments[i]);
    }
  }
}

c10::IValue HostCall::lend_value(const c10::IValue& value, const c10::Argument& argument) {
  if (value.isTensor()) {
    return lend_tensor(value.toTensor(), argument);
  }
  if (value.isDevice()) {
    const c10::Device device = value.toDevice();
    results_stay_ = device.type() != kDevice;
    if (results_stay_) {
      return value;
    }
    if (device.has_index()) {
      target_ = device;
    }
    has_target_ = true;
    return c10::Device(c10::kCPU);
  }
  if (value.isStorage()) {
    const c10::Storage storage = value.toStorage();
    return storage.device_type() == kDevice ? storages_[lend_storage(storage)].host : storage;
  }
  if (argument.name() == "generator") {
    return installed_policy().host_generator(value.toOptional<at::Generator>());
  }
  if (value.isList() && !value.isDoubleList() && !value.isBoolList()) {
    const auto items = value.toList();
    auto lent = c10::impl::GenericList(items.elementType());
    lent.reserve(items.size());
    for (const c10::IValue& item : value.toListRef()) {
      lent.push_back(lend_value(item, argument));
    }
    return lent;
  }
  return value;
}

at::Tensor HostCall::lend_tensor(const at::Tensor& tensor, const c10::Argument& argument) {
  if (!on_device(tensor)) {
    if (tensor.defined()) {
      host_arguments_.push_back(tensor);
    }
    return tensor;
  }
  check_kind(op_, tensor, argument.name().c_str());
  check_filled(op_, tensor, argument);
  if (!has_target_) {
    target_ = tensor.device();
    has_target_ = true;
  }
  for (Operand& operand : operands_) {
    if (operand.device.is_same(tensor)) {
      operand.written |= written(argument);
      return operand.host;
    }
  }
  const size_t storage = lend_storage(tensor.storage());
  at::Tensor host = alias_tensor(tensor, storages_[storage].host);
  operands_.push_back({tensor, host, storage, written(argument)});
  return host;
}

size_t HostCall::lend_storage(const c10::Storage& storage) {
  for (size_t i = 0; i < storages_.size(); ++i) {
    if (storages_[i].device.is_alias_of(storage)) {
      return i;
    }
  }
  storages_.push_back({storage, alias_storage(storage)});
  return storages_.size() - 1;
}

const HostCall::LentStorage* HostCall::find_lent(const c10::Storage& host) const {
  for (const LentStorage& lent : storages_) {
    if (lent.host.is_alias_of(host)) {
      return &lent;
    }
  }
  return nullptr;
}

void HostCall::hand_back(Stack* stack) {
  for (Operand& operand : operands_) {
    if (operand.written) {
      settle(operand);
    }
  }
  const size_t num_returns = op_.schema().returns().size();
  const size_t first = stack->size() - num_returns;
  for (size_t i = 0; i < num_returns; ++i) {
    c10::IValue& value = (*stack)[first + i];
    value = return_value(value);
  }
}

void HostCall::settle_storage(LentStorage& lent) {
  if (lent.host.data() == lent.device.data() && lent.host.nbytes() == lent.device.nbytes()) {
    return;
  }
  // The CPU's kernel resized its alias; others may hold the device storage, so that one must grow in place.
  installed_policy().resize(lent.device, lent.host.nbytes());
  if (lent.host.nbytes() > 0) {
    std::memcpy(lent.device.mutable_data(), lent.host.data(), lent.host.nbytes());
  }
}

void HostCall::settle(Operand& operand) {
  const at::Tensor& host = operand.host;
  c10::TensorImpl* device = operand.device.unsafeGetTensorImpl();
  if (host.storage().is_alias_of(storages_[operand.storage].host)) {
    settle_storage(storages_[operand.storage]);
  } else {
    // set_() gave the alias another storage: that of another argument, or a new one.
    const auto* lent = find_lent(host.storage());
    device->set_storage_keep_dtype(lent != nullptr ? lent->device : adopt(host).storage());
  }
  if (device->sizes() != host.sizes() || device->strides() != host.strides() ||
      device->storage_offset() != host.storage_offset()) {
    device->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  }
}

c10::IValue HostCall::return_value(const c10::IValue& value) {
  if (value.isTensor()) {
    return return_tensor(value.toTensor());
  }
  if (value.isTensorList() || (value.isList() && value.toList().elementType()->isSubtypeOf(*c10::AnyListType::get()))) {
    auto returned = c10::impl::GenericList(value.toList().elementType());
    for (const c10::IValue& item : value.toListRef()) {
      returned.push_back(return_value(item));
    }
    return returned;
  }
  return value;
}

at::Tensor HostCall::return_tensor(const at::Tensor& host) {
  if (!host.defined() || !host.device().is_cpu()) {
    return host;
  }
  for (const Operand& operand : operands_) {
    if (operand.host.is_same(host)) {
      return operand.device;
    }
  }
  check_kind(op_, host, "the result");
  if (const LentStorage* lent = find_lent(host.storage()); lent != nullptr) {
    for (const Operand& operand : operands_) {
      if (storages_.data() + operand.storage == lent) {
        return device_view(host, lent->device, operand.device);
      }
    }
  }
  for (const at::Tensor& argument : host_arguments_) {
    if (argument.is_same(host) || (argument.has_storage() && argument.storage().is_alias_of(host.storage()))) {
      return host;
    }
  }
  return results_stay_ ? host : adopt(host);
}

at::Tensor HostCall::adopt(const at::Tensor& host) {
  const c10::Storage& storage = host.storage();
  if (host._is_zerotensor()) {
    // A tensor of zeros without memory, as autograd makes for missing gradients.
    c10::Storage none(c10::Storage::use_byte_size_t(), 0, at::DataPtr(nullptr, target_), nullptr, false);
    at::Tensor zeros = at::detail::make_tensor<c10::TensorImpl>(
        std::move(none), c10::DispatchKeySet({c10::DispatchKey::PrivateUse1, c10::DispatchKey::ZeroTensor}), host.dtype());
    zeros.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), 0);
    return zeros;
  }
  for (const Adopted& earlier : adopted_) {
    if (earlier.host.is_alias_of(storage)) {
      return device_view(host, earlier.device.storage(), earlier.device);
    }
  }
  const bool has_bits = host.is_conj() || host.is_neg();
  const bool fills = !has_bits && host.storage_offset() == 0 && host.is_non_overlapping_and_dense() &&
      static_cast<size_t>(host.numel()) * host.dtype().itemsize() == storage.nbytes();
  if (fills) {
    adopted_.push_back({storage, installed_policy().adopt(host, target_)});
    return adopted_.back().device;
  }
  // The result is a part of its storage, or repeats it: take over all bytes, then look at them in the same way.
  at::Tensor bytes = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), caffe2::TypeMeta::Make<uint8_t>());
  bytes.unsafeGetTensorImpl()->set_sizes_contiguous({static_cast<int64_t>(storage.nbytes())});
  adopted_.push_back({storage, installed_policy().adopt(bytes, target_)});
  return device_view(host, adopted_.back().device.storage(), adopted_.back().device);
}

}  // namespace portable
