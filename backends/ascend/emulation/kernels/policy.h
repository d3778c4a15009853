// How a host kernel serves torch_npu: where results live, what the chip refuses, and whose random numbers it draws.
#pragma once

#include <redispatch.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace emulation {

class AscendPolicy final : public portable::Policy {
 public:
  at::Tensor adopt(const at::Tensor& host, c10::Device device) override;
  void before(const c10::OperatorHandle& op, const torch::jit::Stack& stack) override;
  void after(const c10::OperatorHandle&, const torch::jit::Stack&) override {}
  at::Generator host_generator(const std::optional<at::Generator>& generator) override;

  // Refuses `dtype` for the operator `name` (with its namespace, without overload), or for all if `name` is "*".
  void deny(const std::string& name, at::ScalarType dtype, const std::string& reason);

  // Throws if `name` may not take `dtype`.
  void check(const std::string& name, at::ScalarType dtype) const;

 private:
  struct Denial {
    at::ScalarType dtype;
    std::string reason;
  };
  void check_rules(const std::string& rules, const std::string& name, at::ScalarType dtype) const;

  std::unordered_map<std::string, std::vector<Denial>> denials_;
};

AscendPolicy& policy();

}  // namespace emulation
