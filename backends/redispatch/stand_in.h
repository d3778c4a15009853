// The kernels of stand_in.cpp's table that live in other files, and how they read their arguments.
#pragma once

#include "host_call.h"

namespace portable {

void attention(const c10::OperatorHandle& op, Stack* stack);
void attention_backward(const c10::OperatorHandle& op, Stack* stack);
void lstm_cell(const c10::OperatorHandle& op, Stack* stack);
void lstm_cell_backward(const c10::OperatorHandle& op, Stack* stack);
void gru_cell(const c10::OperatorHandle& op, Stack* stack);
void gru_cell_backward(const c10::OperatorHandle& op, Stack* stack);

// Pops the `count` arguments of the call.
inline std::vector<c10::IValue> take(Stack* stack, size_t count) {
  std::vector<c10::IValue> arguments(stack->end() - static_cast<std::ptrdiff_t>(count), stack->end());
  torch::jit::drop(*stack, count);
  return arguments;
}

inline at::Tensor tensor_or_none(const c10::IValue& value) { return value.toOptional<at::Tensor>().value_or(at::Tensor()); }

}  // namespace portable
