#include "reduction.h"

#include "redispatch.h"

namespace portable::sim {

using RedOp = c10d::ReduceOp::RedOpType;

std::string name_of(const c10d::ReduceOp& op) {
  switch (op.op_) {
    case RedOp::SUM: return "sum";
    case RedOp::AVG: return "avg";
    case RedOp::PRODUCT: return "product";
    case RedOp::MIN: return "min";
    case RedOp::MAX: return "max";
    case RedOp::BAND: return "band";
    case RedOp::BOR: return "bor";
    case RedOp::BXOR: return "bxor";
    case RedOp::PREMUL_SUM: return "premul_sum";
    case RedOp::UNUSED: break;
  }
  return "unused";
}

RedOp transported(const c10d::ReduceOp& op) {
  return op.op_ == RedOp::AVG || op.op_ == RedOp::PREMUL_SUM ? RedOp::SUM : op.op_;
}

at::Tensor as_summable(const at::Tensor& host, const c10d::ReduceOp& op) {
  if (!host.is_complex()) return host;
  TORCH_CHECK(c10d::isComplexViewAsRealAllowed(op), "complex numbers cannot be reduced by ", name_of(op));
  return at::view_as_real(host);
}

void scale_before(const at::Tensor& host, const c10d::ReduceOp& op) {
  if (op.op_ != RedOp::PREMUL_SUM) return;
  const auto* supplement = static_cast<c10d::PreMulSumSupplement*>(op.supplement_.get());
  TORCH_CHECK(supplement != nullptr, "premul_sum needs its factor");
  if (supplement->tensor_factor.defined()) {
    host.mul_(host_alias(supplement->tensor_factor));
  } else {
    host.mul_(supplement->double_factor);
  }
}

void scale_after(const at::Tensor& host, const c10d::ReduceOp& op, int size) {
  if (op.op_ != RedOp::AVG) return;
  if (at::isIntegralType(host.scalar_type(), /*includeBool=*/true)) {
    host.div_(size, "trunc");
  } else {
    host.div_(size);
  }
}

}  // namespace portable::sim
