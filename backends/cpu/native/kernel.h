// What the kernels of this folder share: number formats, a vectorised exponential, the walk over rows.
//
// The kernels are registered with torch's dispatcher for the CPU through torch's stable C interface, whose headers compile in
// seconds. They allocate their results and never keep a pointer. Letters: N rows, V vocabulary, D hidden.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace portable {

using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The upper half of a float32. A plain integer, since compilers vectorise those and not torch's class.
enum class Bf16 : uint16_t {};

inline float wide(float x) { return x; }
inline float wide(Half x) { return static_cast<float>(x); }
inline float wide(Bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

template <typename T>
T narrow(float x);
template <>
inline float narrow<float>(float x) { return x; }
template <>
inline Half narrow<Half>(float x) { return static_cast<Half>(x); }
template <>
inline Bf16 narrow<Bf16>(float x) {  // to the nearest, to the even one of two
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<Bf16>(x != x ? 0x7fc0 : nearest);
}

// Calls `body` with a value of the C++ type of `dtype`: call_with_type(x.scalar_type(), [&]<typename T>(T) { ... }).
template <typename Body>
void call_with_type(ScalarType dtype, const Body& body) {
  switch (dtype) {
    case ScalarType::Float: return body(float{});
    case ScalarType::BFloat16: return body(Bf16{});
    case ScalarType::Half: return body(Half{});
    default: STD_TORCH_CHECK(false, "portable_cpu: this kernel takes float32, bfloat16 and float16");
  }
}

template <typename T>
const T* read(const Tensor& tensor) { return static_cast<const T*>(tensor.const_data_ptr()); }

template <typename T>
T* write(const Tensor& tensor) { return static_cast<T*>(tensor.mutable_data_ptr()); }

// Enough rows a thread that starting one pays: about a hundred microseconds of simple work on `row_size` numbers a row.
inline int64_t grain(int64_t row_size) { return std::max<int64_t>(1, 65536 / std::max<int64_t>(1, row_size)); }

// e^x within 2 units in the last place, in a form that compilers vectorise: x = n ln 2 + r with |r| <= ln 2 / 2, and a Taylor
// polynomial of degree 7 for e^r, whose remainder is below 6e-9. Scaling in two steps keeps subnormal results right.
// -inf gives 0, +inf gives inf, not-a-number itself.
inline float exponential(float x) {
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const int32_t power = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  float r = x - n * 0.693145751953125f;
  r -= n * 1.42860682030941723212e-6f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t half = power >> 1;
  const float low = std::bit_cast<float>((half + 127) << 23);
  const float high = std::bit_cast<float>((power - half + 127) << 23);
  return p * low * high;
}

// Sixteen numbers side by side, on any instruction set: compilers split what is wider than the machine's registers.
using Lanes = float __attribute__((vector_size(64), aligned(4), may_alias));
constexpr int64_t kLanes = 16;

inline float total(const Lanes& lanes) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < kLanes; ++i) sum += reinterpret_cast<const float*>(&lanes)[i];
  return sum;
}

inline float dot(const float* a, const float* b, int64_t size) {
  Lanes sums[4] = {};  // four, so that one addition need not wait for the last
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int64_t j = 0; j < 4; ++j) {
      sums[j] += *reinterpret_cast<const Lanes*>(a + i + j * kLanes) * *reinterpret_cast<const Lanes*>(b + i + j * kLanes);
    }
  }
  for (; i + kLanes <= size; i += kLanes) {
    sums[0] += *reinterpret_cast<const Lanes*>(a + i) * *reinterpret_cast<const Lanes*>(b + i);
  }
  float rest = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < size; ++i) rest += a[i] * b[i];
  return rest;
}

}  // namespace portable
