// What a real accelerator says of operands on several devices: the rules of torch's own device checks.
#include "host_call.h"

namespace portable {

namespace {

bool starts_with(const std::string& text, const char* start) { return text.rfind(start, 0) == 0; }

bool contains_copy(const std::string& name) {
  return starts_with(name, "aten::copy") || starts_with(name, "aten::_copy_from") ||
      starts_with(name, "aten::_foreach_copy") || starts_with(name, "c10d::");
}

// Indices and the scalars of a foreach operator may, or must, lie on the host.
bool may_be_on_host(const std::string& name, const c10::Argument& argument) {
  const bool indexes = starts_with(name, "aten::index.") || name == "aten::index" || starts_with(name, "aten::index_put") ||
      starts_with(name, "aten::_index_put_impl") || starts_with(name, "aten::_unsafe_index");
  return (indexes && argument.name() == "indices") ||
      (starts_with(name, "aten::_foreach_") && argument.name() == "scalars");
}

struct Check {
  const c10::OperatorHandle& op;
  std::optional<c10::Device> device;    // of the first operand that counts
  std::optional<c10::Device> other;     // of the first one elsewhere
  const c10::Argument* other_argument = nullptr;

  void see(const at::Tensor& tensor, const c10::Argument& argument) {
    if (!tensor.defined()) {
      return;
    }
    const c10::Device place = tensor.device();
    const bool scalar = place.is_cpu() && tensor.dim() == 0;
    const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
    if (device.has_value() && place == *device) {
      return;
    }
    if (scalar && !written) {
      return;
    }
    if (place.is_cpu() && may_be_on_host(op.operator_name().name, argument)) {
      return;
    }
    if (!device.has_value() && place.type() == kDevice) {
      device = place;
    } else if (!other.has_value()) {
      other = place;
      other_argument = &argument;
    }
  }

  void see(const c10::IValue& value, const c10::Argument& argument) {
    if (value.isTensor()) {
      see(value.toTensor(), argument);
    } else if (value.isList()) {
      for (const c10::IValue& item : value.toListRef()) {
        see(item, argument);
      }
    }
  }
};

}  // namespace

void check_same_device(const c10::OperatorHandle& op, const Stack& stack) {
  const auto& arguments = op.schema().arguments();
  const size_t first = stack.size() - arguments.size();
  Check check{op, std::nullopt, std::nullopt};
  for (size_t i = 0; i < arguments.size(); ++i) {
    check.see(stack[first + i], arguments[i]);
  }
  if (C10_UNLIKELY(check.device.has_value() && check.other.has_value()) && !contains_copy(op.operator_name().name)) {
    TORCH_CHECK(
        false, "Expected all tensors to be on the same device, but got ", check.other_argument->name(), " is on ",
        check.other->str(), ", different from other tensors on ", check.device->str(),
        " (when checking the arguments of ", op.operator_name().name, ")");
  }
}

}  // namespace portable
