// The operators that the device must do itself: making, resizing and moving tensors, reading a value on the host.
#include "../machine/transfer.h"
#include "policy.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

namespace portable::sim {
namespace {

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

c10::Device target(std::optional<c10::Device> device) {
  return c10::Device(kType, resolve(device ? device->index() : -1));
}

void check_layout(std::optional<c10::Layout> layout, std::optional<bool> pinned) {
  TORCH_CHECK_NOT_IMPLEMENTED(layout.value_or(c10::kStrided) == c10::kStrided, "this device makes strided tensors only, not ",
                              *layout);
  TORCH_CHECK(!pinned.value_or(false), "only CPU tensors can be pinned");
}

at::Tensor filled(at::Tensor tensor) {
  fill_unwritten(tensor.storage().mutable_data(), tensor.storage().nbytes(), tensor.scalar_type());
  return tensor;
}

at::Tensor empty(at::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout> layout,
                 std::optional<c10::Device> device, std::optional<bool> pinned,
                 std::optional<c10::MemoryFormat> memory_format) {
  check_layout(layout, pinned);
  const auto type = c10::dtype_or_default(dtype);
  check_dtype(type, "aten::empty");
  const c10::DeviceGuard guard(target(device));
  at::Tensor tensor = at::detail::empty_generic(size, allocator(), kKeys, type, memory_format);
  return filled(std::move(tensor));
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout> layout, std::optional<c10::Device> device, std::optional<bool> pinned) {
  check_layout(layout, pinned);
  const auto type = c10::dtype_or_default(dtype);
  check_dtype(type, "aten::empty_strided");
  const c10::DeviceGuard guard(target(device));
  at::Tensor tensor = at::detail::empty_strided_generic(size, stride, allocator(), kKeys, type);
  return filled(std::move(tensor));
}

std::vector<Touch> uses(const at::Tensor& read, const at::Tensor& written) {
  std::vector<Touch> touches;
  if (auto use = touch(read, false)) touches.push_back(*use);
  if (auto use = touch(written, true)) touches.push_back(*use);
  return touches;
}

// Between two devices the copy runs on the source's stream, after the destination's stream and before its next work.
void copy_on_device(const at::Tensor& source, const at::Tensor& destination, bool non_blocking) {
  const auto stream = current_stream(source.device().index());
  const bool peers = source.device() != destination.device();
  const auto other = current_stream(destination.device().index());
  if (peers) stream_waits(stream, clock_of(other));
  start("aten::copy_", stream, uses(source, destination));
  host_alias(destination).copy_(host_alias(source));
  if (peers) stream_waits(other, clock_of(stream));
  if (peers && !non_blocking) host_waits(clock_of(stream));
}

void copy_to_device(const at::Tensor& source, const at::Tensor& destination, bool non_blocking) {
  const auto stream = current_stream(destination.device().index());
  const bool pinned = is_pinned(source.storage().data());
  if (pinned) complete_before_read(source, stream);
  const auto step = start("aten::copy_", stream, uses(source, destination));
  host_alias(destination).copy_(source);
  if (!non_blocking) {
    host_waits(clock_of(stream));
  } else if (pinned) {
    watch_source(step, source);  // from pageable memory the driver has taken the bytes when the call returns
  }
}

void copy_to_host(const at::Tensor& source, const at::Tensor& destination, bool non_blocking) {
  const auto stream = current_stream(source.device().index());
  const auto step = start("aten::copy_", stream, uses(source, destination));
  const auto from = host_alias(source);
  if (non_blocking && is_pinned(destination.storage().data())) {
    auto values = at::empty_like(destination, destination.options().pinned_memory(false), at::MemoryFormat::Contiguous);
    values.copy_(from);
    deliver_later(step, destination, std::move(values));
    return;
  }
  host_waits(clock_of(stream));
  destination.copy_(from);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  if (self.device().type() == kType) check_dtype(self.scalar_type(), "aten::copy_");
  if (dst.device().type() == kType) check_dtype(dst.scalar_type(), "aten::copy_");
  if (dst.numel() == 0) return dst;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  if (self.device().type() == kType && dst.device().type() == kType) {
    copy_on_device(self, dst, non_blocking);
  } else if (dst.device().type() == kType) {
    TORCH_CHECK_NOT_IMPLEMENTED(self.device().is_cpu(), "no copy from ", self.device(), " to ", dst.device());
    copy_to_device(self, dst, non_blocking);
  } else {
    TORCH_CHECK_NOT_IMPLEMENTED(dst.device().is_cpu(), "no copy from ", self.device(), " to ", dst.device());
    copy_to_host(self, dst, non_blocking);
  }
  return dst;
}

// Gives the storage what the tensor's new geometry needs.
void grow_storage(const at::Tensor& self) {
  const auto needed =
      at::detail::computeStorageNbytes(self.sizes(), self.strides(), self.element_size(), self.storage_offset());
  const size_t before = self.storage().nbytes();
  if (self.numel() == 0 || needed <= before) return;
  resize_storage(self.storage(), needed);
  fill_unwritten(static_cast<char*>(self.storage().mutable_data()) + before, needed - before, self.scalar_type());
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size, std::optional<c10::MemoryFormat> memory_format) {
  auto* impl = self.unsafeGetTensorImpl();
  if (self.sizes() == size && !memory_format) return self;
  impl->set_sizes_contiguous(size);
  if (memory_format) impl->empty_tensor_restride(*memory_format);
  grow_storage(self);
  return self;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Tensor& set_storage(at::Tensor& self, c10::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  TORCH_CHECK(source.device() == self.device(), "set_: the storage is on ", source.device(), ", the tensor on ",
              self.device());
  at::native::checkSetStorage(self, std::move(source), offset, size, stride);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(offset);
  if (stride.data() != nullptr && stride.size() == size.size()) {
    impl->set_sizes_and_strides(size, stride);
  } else {
    impl->set_sizes_contiguous(size);
  }
  grow_storage(self);
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / self.element_size());
  return set_storage(self, std::move(source), 0, {count}, {});
}

at::Tensor& set_tensor(at::Tensor& self, const at::Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

at::Tensor& set_nothing(at::Tensor& self) {
  c10::Storage none(c10::Storage::use_byte_size_t(), 0, at::DataPtr(nullptr, self.device()), allocator(), true);
  return set_storage(self, std::move(none), 0, {0}, {});
}

at::Scalar read_value(const at::Tensor& self) {
  const auto stream = current_stream(self.device().index());
  std::vector<Touch> touches;
  if (auto use = touch(self, false)) touches.push_back(*use);
  start("aten::_local_scalar_dense", stream, touches);
  host_waits(clock_of(stream));
  return host_alias(self).item();
}

void record_stream(at::Tensor& self, c10::Stream stream) { allocator()->recordStream(self.storage().data_ptr(), stream); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&portable::run_on_host>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("resize_", resize);
  m.impl("set_", set_nothing);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("_local_scalar_dense", read_value);
  m.impl("record_stream", record_stream);
  portable::register_stand_ins(m);
  portable::register_attention(m);
}

}  // namespace
}  // namespace portable::sim

namespace at::native {

REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &portable::choose_attention)

}  // namespace at::native
