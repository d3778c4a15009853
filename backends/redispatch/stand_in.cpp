// Operators that torch gives to accelerators only; each is written with the operators that the CPU runs in its place.
#include "stand_in.h"

namespace portable {

namespace {

using at::Tensor;

void convolution(const c10::OperatorHandle& /*op*/, Stack* stack) {
  static const auto plain = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "");
  plain.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
}

void convolution_backward(const c10::OperatorHandle& /*op*/, Stack* stack) {
  static const auto plain = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution_backward", "");
  // The plain operator asks for the bias' shape as its fourth argument: one value per output channel.
  const int64_t channels = (*stack)[stack->size() - 10].toTensor().size(1);
  stack->insert(stack->end() - 7, c10::IValue(std::vector<int64_t>{channels}));
  plain.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
}

// native_dropout(input, p, train) -> (output, mask), drawing from the device's generator.
void native_dropout(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 3);
  const Tensor input = arguments[0].toTensor();
  const double keep = 1.0 - arguments[1].toDouble();
  if (!arguments[2].toOptional<bool>().value_or(true)) {
    torch::jit::push(*stack, input.clone(), at::ones_like(input, input.options().dtype(at::kBool)));
    return;
  }
  Tensor mask = at::empty_like(input, input.options().dtype(at::kBool));
  mask.bernoulli_(keep, installed_policy().host_generator(std::nullopt));
  torch::jit::push(*stack, input.mul(mask).mul_(keep == 0.0 ? 0.0 : 1.0 / keep), mask);
}

template <HostKernel kernel>
void boxed(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/, Stack* stack) {
  run_with(op, stack, kernel);
}

struct Row {
  const char* name;
  torch::CppFunction (*function)();
};

template <HostKernel kernel>
torch::CppFunction function() {
  return torch::CppFunction::makeFromBoxedFunction<&boxed<kernel>>();
}

constexpr Row kRows[] = {
    {"convolution_overrideable", &function<&convolution>},
    {"convolution_backward_overrideable", &function<&convolution_backward>},
    {"native_dropout", &function<&native_dropout>},
    // For these torch has a composition, too, which rounds otherwise; every accelerator has a kernel of its own.
    {"native_layer_norm", &function<&call_cpu_kernel>},
    {"native_group_norm", &function<&call_cpu_kernel>},
    {"addr", &function<&call_cpu_kernel>},
    {"addr.out", &function<&call_cpu_kernel>},
    {"silu_backward", &function<&call_cpu_kernel>},
    {"mish_backward", &function<&call_cpu_kernel>},
    {"_thnn_fused_lstm_cell", &function<&lstm_cell>},
    {"_thnn_fused_lstm_cell_backward_impl", &function<&lstm_cell_backward>},
    {"_thnn_fused_gru_cell", &function<&gru_cell>},
    {"_thnn_fused_gru_cell_backward", &function<&gru_cell_backward>},
};

}  // namespace

void register_stand_ins(torch::Library& aten) {
  for (const Row& row : kRows) {
    aten.impl(row.name, row.function());
  }
}

void register_attention(torch::Library& aten) {
  aten.impl("_scaled_dot_product_fused_attention_overrideable", function<&attention>());
  aten.impl("_scaled_dot_product_fused_attention_overrideable_backward", function<&attention_backward>());
}

std::vector<std::string> stand_in_names() {
  std::vector<std::string> names;
  for (const Row& row : kRows) {
    names.emplace_back(row.name);
  }
  return names;
}

}  // namespace portable
