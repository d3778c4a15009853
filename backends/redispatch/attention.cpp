// Scaled dot product attention, fused as the CPU fuses it, under the operator that torch leaves to accelerators.
#include "host_call.h"
#include "stand_in.h"

#include <ATen/SDPBackend.h>

namespace portable {

using at::Tensor;

int64_t choose_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const std::optional<Tensor>& mask, double dropout_p,
    bool is_causal, std::optional<double> scale, bool enable_gqa) {
  constexpr auto math = static_cast<int64_t>(at::SDPBackend::math);
  if (mask.has_value() && mask->requires_grad() && at::GradMode::is_enabled()) {
    return math;  // the fused kernel has no gradient of the mask, and an alias does not know that one is wanted
  }
  const auto host_mask = mask.has_value() ? std::optional<Tensor>(host_alias(*mask)) : std::nullopt;
  const int64_t chosen = at::_fused_sdp_choice(
      host_alias(query), host_alias(key), host_alias(value), host_mask, dropout_p, is_causal, scale, enable_gqa);
  return chosen == math ? math : static_cast<int64_t>(at::SDPBackend::overrideable);
}

// (query, key, value, attn_bias?, dropout_p, is_causal, return_debug_mask, scale?) -> (output, logsumexp, cum_seq_q,
// cum_seq_k, max_q, max_k, philox_seed, philox_offset, debug_attn_mask); what the CPU's kernel has not stays undefined.
void attention(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 8);
  const Tensor query = arguments[0].toTensor(), key = arguments[1].toTensor();
  auto [output, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
      query, key, arguments[2].toTensor(), arguments[4].toDouble(), arguments[5].toBool(),
      arguments[3].toOptional<Tensor>(), arguments[7].toOptional<double>());
  torch::jit::push(
      *stack, output, logsumexp, Tensor(), Tensor(), query.size(2), key.size(2), Tensor(), Tensor(), Tensor());
}

// (grad_out, query, key, value, attn_bias, grad_input_mask, out, logsumexp, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p,
// is_causal, philox_seed, philox_offset, scale?) -> (grad_query, grad_key, grad_value, grad_attn_bias)
void attention_backward(const c10::OperatorHandle& /*op*/, Stack* stack) {
  const auto arguments = take(stack, 17);
  const auto wanted = arguments[5].toBoolList();
  TORCH_CHECK_NOT_IMPLEMENTED(
      !wanted[3], "the fused attention of this device has no gradient of the mask; choose SDPBackend.MATH");
  const Tensor mask = tensor_or_none(arguments[4]);
  auto [grad_query, grad_key, grad_value] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
      arguments[0].toTensor(), arguments[1].toTensor(), arguments[2].toTensor(), arguments[3].toTensor(),
      arguments[6].toTensor(), arguments[7].toTensor(), arguments[12].toDouble(), arguments[13].toBool(),
      mask.defined() ? std::optional<Tensor>(mask) : std::nullopt, arguments[16].toOptional<double>());
  torch::jit::push(*stack, grad_query, grad_key, grad_value, Tensor());
}

}  // namespace portable
