// The Python module of the native part.
#include "../communicator/communicator.h"
#include "../machine/transfer.h"
#include "generator.h"
#include "guard.h"
#include "policy.h"

#include <torch/csrc/utils/pybind.h>

namespace portable::sim {
namespace {

std::set<c10::ScalarType> scalar_types(const std::vector<c10::ScalarType>& dtypes) { return {dtypes.begin(), dtypes.end()}; }

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  install_policy();
  m.def("set_num_devices", &set_num_devices);
  m.def("set_chip", &set_chip);
  m.def("chip", &chip);
  m.def("set_memory_limit", &set_limit);
  m.def("set_fill", &set_fill);
  m.def("set_order_checked", &set_order_checked);
  m.def("order_checked", &order_checked);
  m.def("deny_dtypes", [](const std::vector<c10::ScalarType>& dtypes) { deny_dtypes(scalar_types(dtypes)); });
  m.def("deny_matmul_dtypes",
        [](const std::vector<c10::ScalarType>& dtypes) { deny_matmul_dtypes(scalar_types(dtypes)); });
  m.def("deny_operators", &deny_operators);
  m.def("set_operator_table", &set_operator_table);
  m.def("set_strict", &set_strict);
  m.def("operator_counts", &operator_counts);
  m.def("fallback_counts", &fallback_counts);
  m.def("reset_counts", &reset_counts);
  m.def("default_generator", [](int index) { return default_generator(static_cast<c10::DeviceIndex>(index)); });
  m.def("host_alias", &portable::host_alias);
  bind_communicator(m);
}

}  // namespace portable::sim
