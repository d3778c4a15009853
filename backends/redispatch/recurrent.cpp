// The fused cells of LSTM and GRU, which torch runs on accelerators in place of one operator a gate.
#include "stand_in.h"

namespace portable {

using at::Tensor;

namespace {

Tensor column_sum(const Tensor& gates, bool wanted) { return wanted ? gates.sum(0) : Tensor(); }

}  // namespace

// _thnn_fused_lstm_cell(input_gates, hidden_gates, cx, input_bias?, hidden_bias?) -> (hy, cy, workspace); the workspace
// holds the four activated gates in torch's order: input, forget, cell, output. Hochreiter and Schmidhuber 1997.
void lstm_cell(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 5);
  Tensor gates = arguments[0].toTensor() + arguments[1].toTensor();
  for (size_t bias = 3; bias < 5; ++bias) {
    if (const Tensor value = tensor_or_none(arguments[bias]); value.defined()) {
      gates.add_(value);
    }
  }
  auto part = gates.chunk(4, 1);
  const Tensor i = part[0].sigmoid_(), f = part[1].sigmoid_(), g = part[2].tanh_(), o = part[3].sigmoid_();
  const Tensor cy = (f * arguments[2].toTensor()).add_(i * g);
  torch::jit::push(*stack, o * cy.tanh(), cy, gates);
}

// _thnn_fused_lstm_cell_backward_impl(grad_hy?, grad_cy?, cx, cy, workspace, has_bias) -> (grad_gates, grad_cx, grad_bias)
void lstm_cell_backward(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 6);
  const Tensor cx = arguments[2].toTensor(), tanh_cy = arguments[3].toTensor().tanh();
  Tensor grad_hy = tensor_or_none(arguments[0]), grad_cy = tensor_or_none(arguments[1]);
  grad_hy = grad_hy.defined() ? grad_hy : at::zeros_like(cx);
  grad_cy = grad_cy.defined() ? grad_cy : at::zeros_like(cx);
  const auto part = arguments[4].toTensor().chunk(4, 1);
  const Tensor &i = part[0], &f = part[1], &g = part[2], &o = part[3];
  const Tensor grad_cell = grad_hy * o * (1 - tanh_cy * tanh_cy) + grad_cy;
  const Tensor grad_gates = at::cat(
      {grad_cell * g * i * (1 - i), grad_cell * cx * f * (1 - f), grad_cell * i * (1 - g * g),
       grad_hy * tanh_cy * o * (1 - o)},
      1);
  torch::jit::push(*stack, grad_gates, grad_cell * f, column_sum(grad_gates, arguments[5].toBool()));
}

// _thnn_fused_gru_cell(input_gates, hidden_gates, hx, input_bias?, hidden_bias?) -> (hy, workspace); gates in torch's order:
// reset, update, new. The workspace holds reset, update, new, hx and the hidden part of new. Cho et al. 2014.
void gru_cell(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 5);
  Tensor input_gates = arguments[0].toTensor(), hidden_gates = arguments[1].toTensor();
  const Tensor hx = arguments[2].toTensor();
  if (const Tensor bias = tensor_or_none(arguments[3]); bias.defined()) {
    input_gates = input_gates + bias;
  }
  if (const Tensor bias = tensor_or_none(arguments[4]); bias.defined()) {
    hidden_gates = hidden_gates + bias;
  }
  const auto from_input = input_gates.chunk(3, 1), from_hidden = hidden_gates.chunk(3, 1);
  const Tensor reset = (from_input[0] + from_hidden[0]).sigmoid_();
  const Tensor update = (from_input[1] + from_hidden[1]).sigmoid_();
  const Tensor fresh = (from_input[2] + from_hidden[2] * reset).tanh_();
  torch::jit::push(*stack, (hx - fresh) * update + fresh, at::cat({reset, update, fresh, hx, from_hidden[2]}, 1));
}

// _thnn_fused_gru_cell_backward(grad_hy, workspace, has_bias)
//   -> (grad_input_gates, grad_hidden_gates, grad_hx, grad_input_bias, grad_hidden_bias)
void gru_cell_backward(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 3);
  const Tensor grad_hy = arguments[0].toTensor();
  const auto part = arguments[1].toTensor().chunk(5, 1);
  const Tensor &reset = part[0], &update = part[1], &fresh = part[2], &hx = part[3], &hidden = part[4];
  const bool has_bias = arguments[2].toBool();
  const Tensor grad_update = grad_hy * (hx - fresh) * update * (1 - update);
  const Tensor grad_fresh = grad_hy * (1 - update) * (1 - fresh * fresh);
  const Tensor grad_reset = grad_fresh * hidden * reset * (1 - reset);
  const Tensor grad_input = at::cat({grad_reset, grad_update, grad_fresh}, 1);
  const Tensor grad_hidden = at::cat({grad_reset, grad_update, grad_fresh * reset}, 1);
  torch::jit::push(
      *stack, grad_input, grad_hidden, grad_hy * update, column_sum(grad_input, has_bias),
      column_sum(grad_hidden, has_bias));
}

}  // namespace portable
