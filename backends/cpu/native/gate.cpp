// silu(gate) * up and its gradients, each in one walk over memory.
#include "kernel.h"

namespace portable {
namespace {

constexpr int64_t kBlock = 4096;

// Calls body(begin, end) for the elements, in threads.
template <typename Body>
void for_elements(int64_t count, const Body& body) {
  torch::stable::parallel_for(0, count, 4 * kBlock, body);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

Tensor swiglu(Tensor gate, Tensor up) {
  Tensor result = torch::stable::empty_like(gate);
  call_with_type(gate.scalar_type(), [&]<typename T>(T) {
    const T *const g = read<T>(gate), *const u = read<T>(up);
    T* const out = write<T>(result);
    for_elements(gate.numel(), [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float x = wide(g[i]);
        out[i] = narrow<T>(x * sigmoid(x) * wide(u[i]));
      }
    });
  });
  return result;
}

// d silu(x) / dx = s (1 + x (1 - s)) with s = sigmoid(x).
std::tuple<Tensor, Tensor> swiglu_backward(Tensor grad, Tensor gate, Tensor up) {
  Tensor d_gate = torch::stable::empty_like(gate);
  Tensor d_up = torch::stable::empty_like(gate);
  call_with_type(gate.scalar_type(), [&]<typename T>(T) {
    const T *const d = read<T>(grad), *const g = read<T>(gate), *const u = read<T>(up);
    T *const dg = write<T>(d_gate), *const du = write<T>(d_up);
    for_elements(gate.numel(), [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) {
        const float x = wide(g[i]), y = wide(d[i]), s = sigmoid(x);
        dg[i] = narrow<T>(y * wide(u[i]) * s * (1.0f + x * (1.0f - s)));
        du[i] = narrow<T>(y * x * s);
      }
    });
  });
  return {d_gate, d_up};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("swiglu_backward(Tensor grad, Tensor gate, Tensor up) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) {
  m.impl("swiglu", TORCH_BOX(&swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&swiglu_backward));
}

}  // namespace portable
