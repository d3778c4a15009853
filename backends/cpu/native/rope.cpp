// Rotary position embedding of queries or keys in one walk. Letters: B rows, T tokens, N heads, H head_dim, R rotated dims.
#include "kernel.h"

namespace portable {
namespace {

struct Pairs {
  int64_t count, step, partner;  // pair i is dims i * step and i * step + partner

  static Pairs of(int64_t rotary_dim, bool interleaved) {
    return interleaved ? Pairs{rotary_dim / 2, 2, 1} : Pairs{rotary_dim / 2, 1, rotary_dim / 2};
  }
};

// (a, b) -> (a cos_a - b sin_a, b cos_b + a sin_b); transposed, for the gradient: (a cos_a + b sin_b, b cos_b - a sin_a).
template <typename T, bool transposed, int64_t step>
void rotate(const T* x, const float* cos, const float* sin, Pairs pairs, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < pairs.count; ++i) {
    const int64_t j = i * step, k = j + pairs.partner;
    const float a = wide(x[j]), b = wide(x[k]);
    out[j] = narrow<T>(transposed ? a * cos[j] + b * sin[k] : a * cos[j] - b * sin[j]);
    out[k] = narrow<T>(transposed ? b * cos[k] - a * sin[j] : b * cos[k] + a * sin[k]);
  }
}

template <typename T>
using Rotation = void (*)(const T*, const float*, const float*, Pairs, T*);

template <typename T>
Rotation<T> rotation(bool interleaved, bool transposed) {
  if (interleaved) return transposed ? &rotate<T, true, 2> : &rotate<T, false, 2>;
  return transposed ? &rotate<T, true, 1> : &rotate<T, false, 1>;
}

// x (B, T, N, H) dense in H; cos and sin (B, T, R) float32, dense in R. Returns a contiguous tensor like x.
Tensor rope(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool transposed) {
  const int64_t num_tokens = x.size(1), num_heads = x.size(2), head_dim = x.size(3), rotary_dim = cos.size(2);
  Tensor result = torch::stable::new_empty(x, {x.size(0), num_tokens, num_heads, head_dim});
  const float *const all_cos = read<float>(cos), *const all_sin = read<float>(sin);
  const Pairs pairs = Pairs::of(rotary_dim, interleaved);
  call_with_type(x.scalar_type(), [&]<typename T>(T) {
    const T* const in = read<T>(x);
    T* const out = write<T>(result);
    const Rotation<T> turn = rotation<T>(interleaved, transposed);
    torch::stable::parallel_for(0, x.size(0) * num_tokens, grain(num_heads * head_dim), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        const int64_t b = at / num_tokens, t = at % num_tokens;
        const float* const c = all_cos + b * cos.stride(0) + t * cos.stride(1);
        const float* const s = all_sin + b * sin.stride(0) + t * sin.stride(1);
        for (int64_t n = 0; n < num_heads; ++n) {
          const T* const from = in + b * x.stride(0) + t * x.stride(1) + n * x.stride(2);
          T* const to = out + (at * num_heads + n) * head_dim;
          turn(from, c, s, pairs, to);
          for (int64_t h = rotary_dim; h < head_dim; ++h) to[h] = from[h];
        }
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("rope(Tensor x, Tensor cos, Tensor sin, bool interleaved, bool transposed) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) { m.impl("rope", TORCH_BOX(&rope)); }

}  // namespace portable
