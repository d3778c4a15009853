// The softmax over the vocabulary: each row is read from memory once and worked on in cache.
#include "kernel.h"

namespace portable {
namespace {

// What is done to a logit first. Dividing by a temperature costs as much as half the exponential, so 1 is apart.
struct AsItIs {
  float operator()(float logit) const { return logit; }
};
struct Tempered {
  float temperature;
  float operator()(float logit) const { return logit / temperature; }
};

template <typename Body>
void with_temperature(double temperature, const Body& body) {
  if (temperature == 1.0) {
    body(AsItIs{});
  } else {
    body(Tempered{static_cast<float>(temperature)});
  }
}

// What is subtracted before the exponentials: the greatest logit, or by torch's rule nothing where that is infinite.
template <typename T, typename Temper>
float shift_of(const T* row, int64_t size, Temper temper) {
  float greatest = -kInfinity;
#pragma omp simd reduction(max : greatest)
  for (int64_t i = 0; i < size; ++i) {
    const float x = temper(wide(row[i]));
    greatest = greatest < x ? x : greatest;
  }
  return std::isinf(greatest) ? 0.0f : greatest;
}

// Puts softmax(logits / temperature) in the place of float32 logits and returns the log of each row's target.
Tensor softmax_(Tensor logits, Tensor targets, double temperature) {
  const int64_t num_rows = logits.size(0), size = logits.size(1);
  Tensor log_probs = torch::stable::new_empty(logits, {num_rows});
  float* const all = write<float>(logits);
  const int64_t* const target = read<int64_t>(targets);
  float* const out = write<float>(log_probs);
  with_temperature(temperature, [&](auto temper) {
    torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        float* const row = all + n * size;
        const float shift = shift_of(row, size, temper);
        const float aimed = temper(row[target[n]]) - shift;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < size; ++i) {
          const float e = exponential(temper(row[i]) - shift);
          row[i] = e;
          sum += e;
        }
        const float inverse = 1.0f / sum;
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) row[i] *= inverse;
        out[n] = aimed - std::log(sum);
      }
    });
  });
  return log_probs;
}

// Of each row of x = logits / temperature, dense in memory: the greatest x, log sum exp(x - greatest), and x at the target.
// All 0 for a negative target. The first two are kept apart since their sum would lose digits of the second.
std::tuple<Tensor, Tensor, Tensor> log_norm(Tensor logits, Tensor targets, double temperature) {
  const int64_t num_rows = logits.size(0), size = logits.size(1), stride = logits.stride(0);
  Tensor shifts = torch::stable::new_zeros(logits, {num_rows}, ScalarType::Float);
  Tensor log_sums = torch::stable::new_zeros(logits, {num_rows}, ScalarType::Float);
  Tensor aimed = torch::stable::new_zeros(logits, {num_rows}, ScalarType::Float);
  const int64_t* const target = read<int64_t>(targets);
  float *const shift_out = write<float>(shifts), *const sum_out = write<float>(log_sums), *const aimed_out = write<float>(aimed);
  call_with_type(logits.scalar_type(), [&]<typename T>(T) {
    const T* const all = read<T>(logits);
    with_temperature(temperature, [&](auto temper) {
      torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          if (target[n] < 0) continue;
          const T* const row = all + n * stride;
          const float shift = shift_of(row, size, temper);
          float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < size; ++i) sum += exponential(temper(wide(row[i])) - shift);
          shift_out[n] = shift;
          sum_out[n] = std::log(sum);
          aimed_out[n] = temper(wide(row[target[n]]));
        }
      });
    });
  });
  return {shifts, log_sums, aimed};
}

// weight_probs * softmax(logits / temperature) - weight_target * onehot(target), row by row; 0 for a negative target.
Tensor log_norm_backward(
    Tensor logits, Tensor targets, Tensor shifts, Tensor log_sums, Tensor weight_probs, Tensor weight_target,
    double temperature) {
  const int64_t num_rows = logits.size(0), size = logits.size(1), stride = logits.stride(0);
  Tensor grad = torch::stable::new_empty(logits, {num_rows, size});
  const int64_t* const target = read<int64_t>(targets);
  const float *const shift = read<float>(shifts), *const log_sum = read<float>(log_sums);
  const float *const of_probs = read<float>(weight_probs), *const of_target = read<float>(weight_target);
  call_with_type(logits.scalar_type(), [&]<typename T>(T) {
    const T* const all = read<T>(logits);
    T* const out = write<T>(grad);
    with_temperature(temperature, [&](auto temper) {
      torch::stable::parallel_for(0, num_rows, grain(4 * size), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          const T* const row = all + n * stride;
          T* const line = out + n * size;
          if (target[n] < 0) {
            std::fill(line, line + size, narrow<T>(0.0f));
            continue;
          }
          const auto prob = [&](T logit) { return exponential(temper(wide(logit)) - shift[n] - log_sum[n]); };
#pragma omp simd
          for (int64_t i = 0; i < size; ++i) line[i] = narrow<T>(of_probs[n] * prob(row[i]));
          line[target[n]] = narrow<T>(of_probs[n] * prob(row[target[n]]) - of_target[n]);
        }
      });
    });
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("softmax_(Tensor(a!) logits, Tensor targets, float temperature) -> Tensor");
  m.def("log_norm(Tensor logits, Tensor targets, float temperature) -> (Tensor, Tensor, Tensor)");
  m.def(
      "log_norm_backward(Tensor logits, Tensor targets, Tensor shifts, Tensor log_sums, Tensor weight_probs, Tensor weight_target, "
      "float temperature) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) {
  m.impl("softmax_", TORCH_BOX(&softmax_));
  m.impl("log_norm", TORCH_BOX(&log_norm));
  m.impl("log_norm_backward", TORCH_BOX(&log_norm_backward));
}

}  // namespace portable
