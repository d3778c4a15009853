// Root mean square normalisation, forward and backward, each in one walk over the rows.
//
// y = x / sqrt(mean(x^2) + eps) * w, or * (1 + w). Letters: N rows, D hidden. Sums in float32.
#include "kernel.h"

namespace portable {
namespace {

// The weight's gradient is summed over this many blocks of rows first, whatever the number of threads: the same bits on all.
constexpr int64_t kBlocks = 16;

// In float64: the error of this one number is an error of the whole row.
template <typename T>
float inverse_rms(const T* row, int64_t size, double eps) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += static_cast<double>(wide(row[i])) * static_cast<double>(wide(row[i]));
  return static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(size) + eps));
}

// With `plus_one` everything is rounded once, at the end; else the normed row first, as the reference does.
template <typename T>
void scale_row(const T* row, const float* weight, float by, bool plus_one, int64_t size, T* out) {
  if (plus_one) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) out[i] = narrow<T>(wide(row[i]) * by * (1.0f + weight[i]));
  } else {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
      out[i] = narrow<T>(weight[i] * wide(narrow<T>(wide(row[i]) * by)));
    }
  }
}

// x (N, D) contiguous, weight float32. Returns y like x, and 1 / rms (N,) float32.
std::tuple<Tensor, Tensor> rms_norm(Tensor x, Tensor weight, double eps, bool plus_one) {
  const int64_t num_rows = x.size(0), size = x.size(1);
  Tensor y = torch::stable::new_empty(x, {num_rows, size});
  Tensor inverse = torch::stable::new_empty(x, {num_rows}, ScalarType::Float);
  const float* const w = read<float>(weight);
  float* const by = write<float>(inverse);
  call_with_type(x.scalar_type(), [&]<typename T>(T) {
    const T* const in = read<T>(x);
    T* const out = write<T>(y);
    torch::stable::parallel_for(0, num_rows, grain(size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        by[n] = inverse_rms(in + n * size, size, eps);
        scale_row(in + n * size, w, by[n], plus_one, size, out + n * size);
      }
    });
  });
  return {y, inverse};
}

// s = x + residual in their format, then as rms_norm: returns y, s and 1 / rms.
std::tuple<Tensor, Tensor, Tensor> add_rms_norm(Tensor x, Tensor residual, Tensor weight, double eps) {
  const int64_t num_rows = x.size(0), size = x.size(1);
  Tensor y = torch::stable::new_empty(x, {num_rows, size});
  Tensor sum = torch::stable::new_empty(x, {num_rows, size});
  Tensor inverse = torch::stable::new_empty(x, {num_rows}, ScalarType::Float);
  const float* const w = read<float>(weight);
  float* const by = write<float>(inverse);
  call_with_type(x.scalar_type(), [&]<typename T>(T) {
    const T *const left = read<T>(x), *const right = read<T>(residual);
    T *const out = write<T>(y), *const s = write<T>(sum);
    torch::stable::parallel_for(0, num_rows, grain(size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t at = n * size;
#pragma omp simd
        for (int64_t i = at; i < at + size; ++i) {
          s[i] = narrow<T>(wide(left[i]) + wide(right[i]));
        }
        by[n] = inverse_rms(s + at, size, eps);
        scale_row(s + at, w, by[n], false, size, out + at);
      }
    });
  });
  return {y, sum, inverse};
}

// With a = grad * weight and h = x * by: dx = by (a - h mean(a h)) [+ grad_sum], dw = sum over rows of grad * h.
template <typename T>
void backward_row(
    const T* grad, const T* x, const T* grad_sum, const float* weight, float by, bool plus_one, int64_t size, T* dx, float* dw) {
  const float one = plus_one ? 1.0f : 0.0f;
  float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
  for (int64_t i = 0; i < size; ++i) {
    const float g = wide(grad[i]), h = wide(x[i]) * by;
    mean += g * (one + weight[i]) * h;
    dw[i] += g * h;
  }
  mean /= static_cast<float>(size);
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float h = wide(x[i]) * by;
    const float d = by * (wide(grad[i]) * (one + weight[i]) - h * mean);
    dx[i] = narrow<T>(grad_sum == nullptr ? d : d + wide(grad_sum[i]));
  }
}

// Returns dx like x and dw (D,) float32. `grad_sum` is what reaches s = x + residual by its own way.
std::tuple<Tensor, Tensor> rms_norm_backward(
    Tensor grad, Tensor x, Tensor weight, Tensor inverse, std::optional<Tensor> grad_sum, bool plus_one) {
  const int64_t num_rows = x.size(0), size = x.size(1), block = (num_rows + kBlocks - 1) / kBlocks;
  Tensor dx = torch::stable::new_empty(x, {num_rows, size});
  Tensor dw = torch::stable::new_zeros(x, {size}, ScalarType::Float);
  std::vector<float> partial(static_cast<size_t>(kBlocks * size));
  const float *const w = read<float>(weight), *const by = read<float>(inverse);
  call_with_type(x.scalar_type(), [&]<typename T>(T) {
    const T *const g = read<T>(grad), *const in = read<T>(x), *const extra = grad_sum ? read<T>(*grad_sum) : nullptr;
    T* const out = write<T>(dx);
    torch::stable::parallel_for(0, kBlocks, grain(block * size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin * block; n < std::min(num_rows, end * block); ++n) {
        const int64_t at = n * size;
        float* const sums = partial.data() + n / block * size;
        backward_row(
            g + at, in + at, extra == nullptr ? nullptr : extra + at, w, by[n], plus_one, size, out + at, sums);
      }
    });
  });
  float* const total = write<float>(dw);
  for (int64_t b = 0; b < kBlocks; ++b) {
    for (int64_t i = 0; i < size; ++i) total[i] += partial[static_cast<size_t>(b * size + i)];
  }
  return {dx, dw};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps, bool plus_one) -> (Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)");
  m.def(
      "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor inverse, Tensor? grad_sum, bool plus_one)"
      " -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&rms_norm_backward));
}

}  // namespace portable
