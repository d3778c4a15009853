// Reductions in terms of what the transport can do: sums, and a factor before or after.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

#include <string>

namespace portable::sim {

// "sum", "avg", "premul_sum", ...
std::string name_of(const c10d::ReduceOp& op);

// The operation that the transport runs.
c10d::ReduceOp::RedOpType transported(const c10d::ReduceOp& op);

// What the transport may add up: complex numbers as pairs.
at::Tensor as_summable(const at::Tensor& host, const c10d::ReduceOp& op);

// Applied in place: to the input before (PREMUL_SUM), to the output afterwards (AVG).
void scale_before(const at::Tensor& host, const c10d::ReduceOp& op);
void scale_after(const at::Tensor& host, const c10d::ReduceOp& op, int size);

}  // namespace portable::sim
