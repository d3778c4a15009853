#include "policy.h"

#include "generator.h"
#include "guard.h"

#include <ATen/ATen.h>
#include <c10/util/flat_hash_map.h>

#include <mutex>

namespace portable::sim {
namespace {

// What is known of one operator after its first call.
struct Record {
  std::string name;  // "aten::mm"
  std::string full_name;  // "aten::mm.out"
  bool view = false;         // touches no bytes
  bool matmul = false;
  bool host_waits = false;   // the shape of the result depends on the data
  std::vector<char> writes;  // by argument
  std::vector<size_t> dtype_arguments;
  uint64_t version = 0;  // of the masks below
  bool denied = false;
  bool fallback = false;
  int64_t num_calls = 0;
};

struct Masks {
  std::set<std::string> operators;
  std::set<std::string> table;
  bool strict = false;
  uint64_t version = 1;
};

std::mutex policy_mutex;
Masks masks;
uint64_t denied_dtypes = 0;  // a bit for each, for the hot path
uint64_t denied_matmul_dtypes = 0;
ska::flat_hash_map<const c10::FunctionSchema*, std::unique_ptr<Record>> records;
std::map<std::string, int64_t> direct_calls;

// The work that runs now on this thread, for the results it makes.
thread_local Step current_step;
thread_local const char* current_op = "an operator";
thread_local c10::DeviceIndex current_index = 0;

// The products that torch's matmul, linear, einsum and attention come down to.
bool multiplies_matrices(const std::string& name) {
  static const std::set<std::string> names{"aten::mm",      "aten::addmm", "aten::bmm",        "aten::baddbmm",
                                           "aten::addbmm",  "aten::mv",    "aten::addmv",      "aten::dot",
                                           "aten::_int_mm", "aten::addr",  "aten::_scaled_mm", "aten::_grouped_mm",
                                           "aten::_scaled_mm_v2", "aten::_scaled_grouped_mm"};
  return names.count(name) > 0;
}

uint64_t bit(c10::ScalarType dtype) { return uint64_t{1} << static_cast<int>(dtype); }

uint64_t bits(const std::set<c10::ScalarType>& dtypes) {
  uint64_t all = 0;
  for (const auto dtype : dtypes) all |= bit(dtype);
  return all;
}

Record describe(const c10::OperatorHandle& op) {
  Record record;
  const auto& name = op.operator_name();
  record.name = name.name;
  record.full_name = name.overload_name.empty() ? name.name : name.name + "." + name.overload_name;
  record.matmul = multiplies_matrices(record.name);
  const auto& arguments = op.schema().arguments();
  bool writes = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* alias = arguments[i].alias_info();
    const bool write = alias != nullptr && alias->isWrite();
    record.writes.push_back(write);
    record.view |= alias != nullptr;
    writes |= write;
    if (arguments[i].name() == "dtype") record.dtype_arguments.push_back(i);
  }
  record.view &= !writes;
  record.host_waits = op.hasTag(at::Tag::dynamic_output_shape) || op.hasTag(at::Tag::data_dependent_output);
  return record;
}

bool contains(const std::set<std::string>& names, const Record& record) {
  return names.count(record.name) > 0 || names.count(record.full_name) > 0;
}

Record& look_up(const c10::OperatorHandle& op) {
  std::lock_guard<std::mutex> lock(policy_mutex);
  auto& slot = records[&op.schema()];
  if (!slot) slot = std::make_unique<Record>(describe(op));
  if (slot->version != masks.version) {
    slot->version = masks.version;
    slot->denied = contains(masks.operators, *slot);
    slot->fallback = !masks.table.empty() && !slot->view && !contains(masks.table, *slot);
  }
  ++slot->num_calls;
  return *slot;
}

template <typename F>
void for_each_tensor(const c10::IValue& value, F visit) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) visit(value.toTensor());
  } else if (value.isList()) {
    for (const auto& item : value.toListRef()) for_each_tensor(item, visit);
  }
}

void check_matmul_dtype(const Record& record, c10::ScalarType dtype) {
  TORCH_CHECK_NOT_IMPLEMENTED((denied_matmul_dtypes & bit(dtype)) == 0, record.full_name, ": ", chip(),
                              ", which this device imitates, does not multiply matrices of ", dtype,
                              ". Cast them to a format that its capability lists");
}

void check_dtypes(const Record& record, c10::ArrayRef<c10::IValue> arguments) {
  if (denied_dtypes == 0 && (denied_matmul_dtypes == 0 || !record.matmul)) return;
  for (const size_t i : record.dtype_arguments) {
    if (arguments[i].isInt()) check_dtype(static_cast<c10::ScalarType>(arguments[i].toInt()), record.full_name.c_str());
  }
  for (const auto& argument : arguments) {
    for_each_tensor(argument, [&](const at::Tensor& tensor) {
      if (tensor.device().type() != kType) return;
      check_dtype(tensor.scalar_type(), record.full_name.c_str());
      if (record.matmul) check_matmul_dtype(record, tensor.scalar_type());
    });
  }
}

void check_operator(const Record& record) {
  TORCH_CHECK_NOT_IMPLEMENTED(!record.denied, record.full_name, " is not implemented on ", chip(),
                              ", which this device imitates. Compute the same with other operators, or on the CPU");
  if (!record.fallback) return;
  TORCH_CHECK_NOT_IMPLEMENTED(!masks.strict, record.full_name, " has no kernel on ", chip(),
                              ", which this device imitates, and falling back to the CPU is refused (strict). Compute the "
                              "same with other operators, or allow fallbacks");
}

struct SimPolicy final : portable::Policy {
  at::Tensor adopt(const at::Tensor& host, c10::Device device) override {
    const auto index = resolve(device.index());
    c10::Storage storage(c10::Storage::use_byte_size_t(), host.storage().nbytes(),
                         sim::adopt(host.storage(), index, current_step, current_op), allocator(), true);
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), host.dtype());
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
    return tensor;
  }

  void before(const c10::OperatorHandle& op, const torch::jit::Stack& stack) override {
    const auto& record = look_up(op);
    const auto arguments = torch::jit::last(stack, record.writes.size());
    check_operator(record);
    check_dtypes(record, arguments);
    std::vector<Touch> touches;
    std::optional<c10::Device> device;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].isDevice() && arguments[i].toDevice().type() == kType) device = arguments[i].toDevice();
      for_each_tensor(arguments[i], [&](const at::Tensor& tensor) {
        if (tensor.device().type() != kType) return;
        if (!device) device = tensor.device();
        if (record.view) return;
        if (auto use = touch(tensor, record.writes[i])) touches.push_back(*use);
      });
    }
    current_index = resolve(device ? device->index() : -1);
    current_op = record.name.c_str();
    if (record.view) return;
    const auto stream = current_stream(current_index);
    current_step = launch(stream, current_op, touches);
    if (record.fallback || record.host_waits) host_waits(clock_of(stream));
  }

  void after(const c10::OperatorHandle& op, const torch::jit::Stack& stack) override {
    if (denied_dtypes == 0) return;
    for (const auto& result : torch::jit::last(stack, op.schema().returns().size())) {
      for_each_tensor(result, [&](const at::Tensor& tensor) {
        if (tensor.device().type() == kType) check_dtype(tensor.scalar_type(), op.operator_name().name.c_str());
      });
    }
  }

  at::Generator host_generator(const std::optional<at::Generator>& generator) override {
    const auto& chosen = generator && generator->defined() ? *generator : default_generator(current_index);
    TORCH_CHECK(chosen.device().type() == kType, "Expected a '", kType, "' device type for generator but found '",
                chosen.device().type(), "'");
    std::lock_guard<std::mutex> lock(chosen.unsafeGetGeneratorImpl()->mutex_);
    return static_cast<Generator*>(chosen.unsafeGetGeneratorImpl())->draw();
  }
};

template <typename F>
void change(F edit) {
  std::lock_guard<std::mutex> lock(policy_mutex);
  edit();
  ++masks.version;
}

std::map<std::string, int64_t> counts(bool only_fallbacks) {
  std::lock_guard<std::mutex> lock(policy_mutex);
  std::map<std::string, int64_t> result = only_fallbacks ? std::map<std::string, int64_t>{} : direct_calls;
  for (const auto& [schema, record] : records) {
    if (record->num_calls > 0 && record->fallback == only_fallbacks) result[record->full_name] += record->num_calls;
  }
  return result;
}

}  // namespace

void deny_dtypes(std::set<c10::ScalarType> dtypes) { change([&] { denied_dtypes = bits(dtypes); }); }

void deny_matmul_dtypes(std::set<c10::ScalarType> dtypes) { change([&] { denied_matmul_dtypes = bits(dtypes); }); }

void check_dtype(c10::ScalarType dtype, const char* op) {
  if (C10_LIKELY((denied_dtypes & bit(dtype)) == 0)) return;
  TORCH_CHECK_NOT_IMPLEMENTED(false, op, ": ", chip(), ", which this device imitates, has no ", dtype,
                              ". Use a format that its capability lists, or compute on the CPU");
}

c10::DeviceCapability device_capability() {
  c10::DeviceCapability capability;
  capability.capability_data.capability_bits &= ~denied_dtypes;
  return capability;
}

void deny_operators(std::set<std::string> names) { change([&] { masks.operators = std::move(names); }); }

void set_operator_table(std::set<std::string> names) { change([&] { masks.table = std::move(names); }); }

void set_strict(bool on) { change([&] { masks.strict = on; }); }

std::map<std::string, int64_t> operator_counts() { return counts(false); }

std::map<std::string, int64_t> fallback_counts() { return counts(true); }

void reset_counts() {
  std::lock_guard<std::mutex> lock(policy_mutex);
  direct_calls.clear();
  for (auto& [schema, record] : records) record->num_calls = 0;
}

Step start(const char* op, const c10::Stream& stream, const std::vector<Touch>& touches) {
  {
    std::lock_guard<std::mutex> lock(policy_mutex);
    ++direct_calls[op];
  }
  return launch(stream, op, touches);
}

void install_policy() {
  static SimPolicy policy;
  portable::install(&policy);
}

}  // namespace portable::sim
