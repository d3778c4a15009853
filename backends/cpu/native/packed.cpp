// Matrix products with weights of 2 to 8 bits: codes are read as they lie and become numbers in registers.
//
// A row is a little-endian bit stream: 32 consecutive codes take exactly `bits` words. Letters: N rows, O outputs, D inputs, G groups.
#include "kernel.h"

#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace portable {
namespace {

// Where each of 32 codes begins: its word, and its first bit there.
template <int bits>
struct Places {
  alignas(64) int32_t word[32], next[32], shift[32], rest[32];
  constexpr Places() : word(), next(), shift(), rest() {
    for (int i = 0; i < 32; ++i) {
      word[i] = i * bits / 32;
      next[i] = word[i] + 1 < bits ? word[i] + 1 : word[i];
      shift[i] = i * bits % 32;
      rest[i] = 32 - shift[i];
    }
  }
};

template <int bits>
void unpack(const uint32_t* words, float* out) {
  static constexpr Places<bits> places;
  constexpr uint32_t mask = (1u << bits) - 1;
#ifdef __AVX512F__
  const __m512i all = _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << bits) - 1), words);
  for (int i = 0; i < 32; i += 16) {
    __m512i code = _mm512_srlv_epi32(
        _mm512_permutexvar_epi32(_mm512_load_si512(places.word + i), all), _mm512_load_si512(places.shift + i));
    if constexpr (32 % bits != 0) {  // a code may go on in the next word; shifting by 32 gives 0
      code = _mm512_or_si512(
          code, _mm512_sllv_epi32(
                    _mm512_permutexvar_epi32(_mm512_load_si512(places.next + i), all), _mm512_load_si512(places.rest + i)));
    }
    _mm512_storeu_ps(out + i, _mm512_cvtepi32_ps(_mm512_and_si512(code, _mm512_set1_epi32(mask))));
  }
#else
  for (int i = 0; i < 32; ++i) {
    const uint64_t two = words[places.word[i]] | static_cast<uint64_t>(words[places.next[i]]) << 32;
    out[i] = static_cast<float>(static_cast<int32_t>(two >> places.shift[i] & mask));
  }
#endif
}

// One row of weights: (code - zero) * scale, both of the code's group.
template <int bits>
void dequantize_row(const uint32_t* words, const float* scale, const float* zero, int64_t size, int64_t group_size, float* out) {
  for (int64_t i = 0; i < size; i += 32) unpack<bits>(words + i / 32 * bits, out + i);
  for (int64_t start = 0; start < size; start += group_size, ++scale, ++zero) {
    const float by = *scale, from = *zero;
#pragma omp simd
    for (int64_t i = start; i < start + group_size; ++i) out[i] = (out[i] - from) * by;
  }
}

using RowFunction = void (*)(const uint32_t*, const float*, const float*, int64_t, int64_t, float*);

RowFunction row_function(int64_t bits) {
  switch (bits) {
    case 2: return &dequantize_row<2>;
    case 3: return &dequantize_row<3>;
    case 4: return &dequantize_row<4>;
    case 5: return &dequantize_row<5>;
    case 6: return &dequantize_row<6>;
    case 7: return &dequantize_row<7>;
    case 8: return &dequantize_row<8>;
    default: STD_TORCH_CHECK(false, "packed_matmul: codes have 2 to 8 bits, not ", bits);
  }
}

// The weights (O, D) themselves, in the format of `like`.
Tensor packed_dequantize(Tensor codes, Tensor scales, Tensor zeros, Tensor like, int64_t bits, int64_t group_size) {
  const int64_t num_rows = codes.size(0), num_words = codes.size(1), size = num_words / bits * 32, groups = scales.size(1);
  Tensor weight = torch::stable::new_empty(like, {num_rows, size});
  const RowFunction row = row_function(bits);
  const uint32_t* const words = read<uint32_t>(codes);
  const float *const scale = read<float>(scales), *const zero = read<float>(zeros);
  call_with_type(like.scalar_type(), [&]<typename T>(T) {
    T* const out = write<T>(weight);
    torch::stable::parallel_for(0, num_rows, grain(size), [&](int64_t begin, int64_t end) {
      std::vector<float> line(static_cast<size_t>(size));
      for (int64_t o = begin; o < end; ++o) {
        row(words + o * num_words, scale + o * groups, zero + o * groups, size, group_size, line.data());
        for (int64_t i = 0; i < size; ++i) out[o * size + i] = narrow<T>(line[static_cast<size_t>(i)]);
      }
    });
  });
  return weight;
}

// x (N, D) times the transposed weights, in float32, for a few rows: every weight is unpacked once, into first-level cache.
Tensor packed_matmul(Tensor x, Tensor codes, Tensor scales, Tensor zeros, int64_t bits, int64_t group_size) {
  const int64_t num_rows = x.size(0), size = x.size(1), num_outputs = codes.size(0), num_words = codes.size(1);
  const int64_t groups = scales.size(1);
  Tensor result = torch::stable::new_empty(x, {num_rows, num_outputs});
  const RowFunction row = row_function(bits);
  const float* const input = read<float>(x);
  const uint32_t* const words = read<uint32_t>(codes);
  const float *const scale = read<float>(scales), *const zero = read<float>(zeros);
  float* const out = write<float>(result);
  torch::stable::parallel_for(0, num_outputs, grain(size), [&](int64_t begin, int64_t end) {
    std::vector<float> line(static_cast<size_t>(size));
    for (int64_t o = begin; o < end; ++o) {
      row(words + o * num_words, scale + o * groups, zero + o * groups, size, group_size, line.data());
      for (int64_t n = 0; n < num_rows; ++n) out[n * num_outputs + o] = dot(input + n * size, line.data(), size);
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def("packed_dequantize(Tensor codes, Tensor scales, Tensor zeros, Tensor like, int bits, int group_size) -> Tensor");
  m.def("packed_matmul(Tensor x, Tensor codes, Tensor scales, Tensor zeros, int bits, int group_size) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) {
  m.impl("packed_dequantize", TORCH_BOX(&packed_dequantize));
  m.impl("packed_matmul", TORCH_BOX(&packed_matmul));
}

}  // namespace portable
