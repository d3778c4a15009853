// Attention of one new token a row to its cached tokens, which lie in pages; only the pages that count are read.
//
// Letters: B rows, N query heads, K key-value heads, G = N / K, H head_dim, P pages, C positions a page, M pages a row at most.
#include "kernel.h"

namespace portable {
namespace {

// Positions of one head lie far apart, which the processor does not foresee: asking this many positions ahead made long
// caches a third faster.
constexpr int64_t kAhead = 4, kLine = 64;

struct Cache {
  const void* data;
  int64_t page_stride, position_stride, head_stride;
};

Cache cache_of(const Tensor& pages) { return {pages.const_data_ptr(), pages.stride(0), pages.stride(1), pages.stride(2)}; }

// What one key-value head of one row needs, kept between tasks.
struct Scratch {
  std::vector<float> scores, vector;
};

struct Problem {
  int64_t num_heads, num_kv_heads, head_dim, num_pages, page_size;
  Cache keys, values;
  const float* sink;  // one logit a query head, or nullptr
};

template <typename T>
const float* widen(const T* from, int64_t size, float* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = wide(from[i]);
  return to;
}
inline const float* widen(const float* from, int64_t /*size*/, float* /*to*/) { return from; }

// Calls body(i, vector) for the positions start + i below `length`, page by page.
template <typename T, typename Body>
void for_vectors(
    const Problem& p, const Cache& cache, const int64_t* table, int64_t head, int64_t start, int64_t length, float* room,
    const Body& body) {
  for (int64_t at = start; at < length;) {
    // A page that does not exist is the caller's mistake; it must not become a read of foreign memory.
    const int64_t page = std::clamp<int64_t>(table[at / p.page_size], 0, p.num_pages - 1), place = at % p.page_size;
    const T* from = static_cast<const T*>(cache.data) + page * cache.page_stride + place * cache.position_stride +
                    head * cache.head_stride;
    const int64_t end = std::min(length, at - place + p.page_size);
    for (; at < end; ++at, from += cache.position_stride) {
      for (int64_t h = 0; h < p.head_dim; h += kLine / static_cast<int64_t>(sizeof(T))) {
        __builtin_prefetch(from + kAhead * cache.position_stride + h);  // may be anywhere: it is only a hint
      }
      body(at - start, widen(from, p.head_dim, room));
    }
  }
}

// Turns the scores of one query head into weights that sum to 1, or to less where a sink takes its share.
void normalise(float* scores, int64_t size, const float* sink) {
  float greatest = sink != nullptr ? *sink : -kInfinity;
#pragma omp simd reduction(max : greatest)
  for (int64_t i = 0; i < size; ++i) greatest = greatest < scores[i] ? scores[i] : greatest;
  float sum = sink != nullptr ? exponential(*sink - greatest) : 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) {
    scores[i] = exponential(scores[i] - greatest);
    sum += scores[i];
  }
  const float inverse = 1.0f / sum;
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) scores[i] *= inverse;
}

// q and out: the G query heads of key-value head `head`, positions [start, length) of its row.
template <typename T>
void attend(
    const Problem& p, const int64_t* table, int64_t head, int64_t start, int64_t length, const float* q, float* out, Scratch& s) {
  const int64_t group = p.num_heads / p.num_kv_heads, count = length - start, dim = p.head_dim;
  s.scores.resize(static_cast<size_t>(group * count));
  s.vector.resize(static_cast<size_t>(dim));
  for_vectors<T>(p, p.keys, table, head, start, length, s.vector.data(), [&](int64_t i, const float* key) {
    for (int64_t g = 0; g < group; ++g) s.scores[static_cast<size_t>(g * count + i)] = dot(q + g * dim, key, dim);
  });
  for (int64_t g = 0; g < group; ++g) {
    normalise(s.scores.data() + g * count, count, p.sink == nullptr ? nullptr : p.sink + head * group + g);
  }
  for (int64_t i = 0; i < group * dim; ++i) out[i] = 0.0f;
  for_vectors<T>(p, p.values, table, head, start, length, s.vector.data(), [&](int64_t i, const float* value) {
    for (int64_t g = 0; g < group; ++g) {
      const float weight = s.scores[static_cast<size_t>(g * count + i)];
      float* const mixed = out + g * dim;
#pragma omp simd
      for (int64_t h = 0; h < dim; ++h) mixed[h] += weight * value[h];
    }
  });
}

// q (B, N, H) float32, contiguous, scaled; both kinds of pages of one format, dense in H. A window of 0 is none. Returns float32.
Tensor paged_attention(
    Tensor q, Tensor k_pages, Tensor v_pages, Tensor table, Tensor lengths, int64_t window, std::optional<Tensor> sink) {
  const int64_t num_rows = q.size(0), table_size = table.size(1), reach = table_size * k_pages.size(1);
  const Problem p{q.size(1),         k_pages.size(2),   q.size(2),         k_pages.size(0),
                  k_pages.size(1),   cache_of(k_pages), cache_of(v_pages), sink ? read<float>(*sink) : nullptr};
  const int64_t stride = p.num_heads / p.num_kv_heads * p.head_dim;
  Tensor result = torch::stable::new_empty(q, {num_rows, p.num_heads, p.head_dim});
  const float* const queries = read<float>(q);
  float* const out = write<float>(result);
  const int64_t *const pages = read<int64_t>(table), *const all_lengths = read<int64_t>(lengths);
  call_with_type(k_pages.scalar_type(), [&]<typename T>(T) {
    torch::stable::parallel_for(0, num_rows * p.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
      Scratch scratch;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t row = task / p.num_kv_heads, head = task % p.num_kv_heads;
        const int64_t length = std::clamp<int64_t>(all_lengths[row], 0, reach);
        const int64_t start = window > 0 ? std::max<int64_t>(0, length - window) : 0;
        attend<T>(p, pages + row * table_size, head, start, length, queries + task * stride, out + task * stride, scratch);
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) {
  m.def(
      "paged_attention(Tensor q, Tensor k_pages, Tensor v_pages, Tensor table, Tensor lengths, int window, Tensor? sink) "
      "-> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) { m.impl("paged_attention", TORCH_BOX(&paged_attention)); }

}  // namespace portable
