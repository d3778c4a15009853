#include "host_call.h"

#include <c10/core/CPUAllocator.h>

namespace portable {

namespace {

void release(void* context) {
  // Takes back the reference that alias_storage gave away.
  c10::intrusive_ptr<c10::StorageImpl>::reclaim(static_cast<c10::StorageImpl*>(context));
}

void copy_geometry(const at::Tensor& from, const at::Tensor& to) {
  to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
  if (from.is_conj()) {
    to.unsafeGetTensorImpl()->_set_conj(true);
  }
  if (from.is_neg()) {
    to.unsafeGetTensorImpl()->_set_neg(true);
  }
}

}  // namespace

c10::Storage alias_storage(const c10::Storage& device) {
  c10::StorageImpl* kept = c10::Storage(device).unsafeReleaseStorageImpl();
  at::DataPtr bytes(kept->mutable_data(), kept, &release, c10::Device(c10::kCPU));
  return c10::Storage(
      c10::Storage::use_byte_size_t(), kept->nbytes(), std::move(bytes), c10::GetCPUAllocator(), kept->resizable());
}

at::Tensor alias_tensor(const at::Tensor& device, c10::Storage storage) {
  at::Tensor host = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), device.dtype());
  copy_geometry(device, host);
  if (device.unsafeGetTensorImpl()->is_wrapped_number()) {
    host.unsafeGetTensorImpl()->set_wrapped_number(true);
  }
  return host;
}

at::Tensor device_view(const at::Tensor& host, const c10::Storage& storage, const at::Tensor& base) {
  const auto bits = c10::DispatchKeySet({c10::DispatchKey::Conjugate, c10::DispatchKey::Negative});
  at::Tensor view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(storage), base.key_set() - bits, host.dtype());
  copy_geometry(host, view);
  return view;
}

at::Tensor host_alias(const at::Tensor& tensor) {
  return on_device(tensor) ? alias_tensor(tensor, alias_storage(tensor.storage())) : tensor;
}

}  // namespace portable
