// The softmax over the vocabulary: each row is read from memory once and worked on in cache.
#include "kernel.h"

namespace portable {
namespace {

struct RowSum {
  float shift;  // what was subtracted before the exponentials: the greatest logit
  float sum;
  float log_norm() const { return shift + std::log(sum); }
};

// Torch's rule for a row whose greatest logit is infinite: nothing is subtracted.
inline float shift_of(float greatest) { return std::isinf(greatest) ? 0.0f : greatest; }

template <typename T>
float greatest_of(const T* row, int64_t size, float factor) {
  float greatest = -kInfinity;
#pragma omp simd reduction(max : greatest)
  for (int64_t i = 0; i < size; ++i) {
    const float x = wide(row[i]) * factor;
    greatest = greatest < x ? x : greatest;
  }
  return greatest;
}

template <typename T>
RowSum sum_of(const T* row, int64_t size, float factor) {
  const float shift = shift_of(greatest_of(row, size, factor));
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += exponential(wide(row[i]) * factor - shift);
  return {shift, sum};
}

// Puts softmax(logits * factor) in the place of float32 logits and returns the log of each row's target.
Tensor softmax_(Tensor logits, Tensor targets, double factor) {
  const int64_t num_rows = logits.size(0), size = logits.size(1);
  Tensor log_probs = torch::stable::new_empty(logits, {num_rows});
  float* const all = write<float>(logits);
  const int64_t* const target = read<int64_t>(targets);
  float* const out = write<float>(log_probs);
  const float scale = static_cast<float>(factor);
  torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      float* const row = all + n * size;
      const float shift = shift_of(greatest_of(row, size, scale));
      const float aimed = row[target[n]] * scale - shift;
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < size; ++i) {
        const float e = exponential(row[i] * scale - shift);
        row[i] = e;
        sum += e;
      }
      const float inverse = 1.0f / sum;
#pragma omp simd
      for (int64_t i = 0; i < size; ++i) row[i] *= inverse;
      out[n] = aimed - std::log(sum);
    }
  });
  return log_probs;
}

// log sum exp(logits * factor) of each row, and each row's logit * factor at its target (0 for a negative one).
std::tuple<Tensor, Tensor> log_norm(Tensor logits, Tensor targets, double factor) {
  const int64_t num_rows = logits.size(0), size = logits.size(1), stride = logits.stride(0);
  Tensor norms = torch::stable::new_empty(logits, {num_rows}, ScalarType::Float);
  Tensor aimed = torch::stable::new_empty(logits, {num_rows}, ScalarType::Float);
  const int64_t* const target = read<int64_t>(targets);
  float* const norm_out = write<float>(norms);
  float* const aimed_out = write<float>(aimed);
  const float scale = static_cast<float>(factor);
  call_with_type(logits.scalar_type(), [&]<typename T>(T) {
    const T* const all = read<T>(logits);
    torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* const row = all + n * stride;
        norm_out[n] = target[n] < 0 ? 0.0f : sum_of(row, size, scale).log_norm();
        aimed_out[n] = target[n] < 0 ? 0.0f : wide(row[target[n]]) * scale;
      }
    });
  });
  return {norms, aimed};
}

// weight_probs * softmax(logits * factor) - weight_target * onehot(target), row by row; 0 for a negative target.
Tensor log_norm_backward(
    Tensor logits, Tensor targets, Tensor norms, Tensor weight_probs, Tensor weight_target, double factor) {
  const int64_t num_rows = logits.size(0), size = logits.size(1), stride = logits.stride(0);
  Tensor grad = torch::stable::new_empty(logits, {num_rows, size});
  const int64_t* const target = read<int64_t>(targets);
  const float* const norm = read<float>(norms);
  const float* const of_probs = read<float>(weight_probs);
  const float* const of_target = read<float>(weight_target);
  const float scale = static_cast<float>(factor);
  call_with_type(logits.scalar_type(), [&]<typename T>(T) {
    const T* const all = read<T>(logits);
    T* const out = write<T>(grad);
    torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* const row = all + n * stride;
        T* const line = out + n * size;
        if (target[n] < 0) {
          for (int64_t i = 0; i < size; ++i) line[i] = narrow<T>(0.0f);
          continue;
        }
        const float log_sum = norm[n], weight = of_probs[n];
#pragma omp simd
        for (int64_t i = 0; i < size; ++i)
          line[i] = narrow<T>(weight * exponential(wide(row[i]) * scale - log_sum));
        const float p = exponential(wide(row[target[n]]) * scale - log_sum);
        line[target[n]] = narrow<T>(weight * p - of_target[n]);
      }
    });
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("softmax_(Tensor(a!) logits, Tensor targets, float factor) -> Tensor");
  m.def("log_norm(Tensor logits, Tensor targets, float factor) -> (Tensor, Tensor)");
  m.def(
      "log_norm_backward(Tensor logits, Tensor targets, Tensor norms, Tensor weight_probs, Tensor weight_target, float factor)"
      " -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) {
  m.impl("softmax_", TORCH_BOX(&softmax_));
  m.impl("log_norm", TORCH_BOX(&log_norm));
  m.impl("log_norm_backward", TORCH_BOX(&log_norm_backward));
}

}  // namespace portable
