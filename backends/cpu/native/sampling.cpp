// Which tokens a sampler may draw: the k best of a row, of these the fewest that together reach p. Letters: N rows, V vocabulary.
#include "kernel.h"

namespace portable {
namespace {

struct Token {
  float logit;
  int64_t index;
};

// Falling order; of equal logits the lower index comes first.
bool precedes(const Token& a, const Token& b) { return a.logit != b.logit ? a.logit > b.logit : a.index < b.index; }

// Puts the `count` first tokens of the order in front, sorted; `done` of them are there already.
void bring_forward(std::vector<Token>& tokens, int64_t done, int64_t count) {
  if (count < std::ssize(tokens)) {
    std::nth_element(tokens.begin() + done, tokens.begin() + count, tokens.end(), precedes);
  }
  std::sort(tokens.begin() + done, tokens.begin() + count, precedes);
}

// Returns how many tokens of a row are kept and puts them in front.
int64_t keep(std::vector<Token>& tokens, int64_t top_k, float top_p) {
  const int64_t size = std::ssize(tokens);
  const int64_t limit = top_k > 0 ? std::min(top_k, size) : size;
  if (limit < size) std::nth_element(tokens.begin(), tokens.begin() + limit, tokens.end(), precedes);
  if (!(top_p < 1.0f)) return limit;
  float greatest = -kInfinity;
  for (int64_t i = 0; i < limit; ++i) greatest = std::max(greatest, tokens[static_cast<size_t>(i)].logit);
  double sum = 0.0;
  for (int64_t i = 0; i < limit; ++i) sum += exponential(tokens[static_cast<size_t>(i)].logit - greatest);
  tokens.resize(static_cast<size_t>(limit));  // those beyond are cut, and their order does not matter
  double before = 0.0;
  int64_t sorted = 0;
  for (int64_t i = 0; i < limit; ++i) {
    if (i > 0 && before >= static_cast<double>(top_p) * sum) return i;
    if (i == sorted) {  // few tokens hold most of the probability: sorting goes no further than it must
      const int64_t next = std::min(limit, std::max<int64_t>(64, 4 * sorted));
      bring_forward(tokens, sorted, next);
      sorted = next;
    }
    before += exponential(tokens[static_cast<size_t>(i)].logit - greatest);
  }
  return limit;
}

// True where a token is cut. logits (N, V) float32 and contiguous, top_k int64, top_p float32.
Tensor top_k_top_p(Tensor logits, Tensor top_k, Tensor top_p) {
  const int64_t num_rows = logits.size(0), size = logits.size(1);
  Tensor cut = torch::stable::new_empty(logits, {num_rows, size}, ScalarType::Bool);
  const float *const all = read<float>(logits), *const p = read<float>(top_p);
  const int64_t* const k = read<int64_t>(top_k);
  bool* const out = write<bool>(cut);
  torch::stable::parallel_for(0, num_rows, grain(16 * size), [&](int64_t begin, int64_t end) {
    std::vector<Token> tokens;
    for (int64_t n = begin; n < end; ++n) {
      bool* const line = out + n * size;
      if ((k[n] <= 0 || k[n] >= size) && !(p[n] < 1.0f)) {
        std::fill(line, line + size, false);
        continue;
      }
      tokens.resize(static_cast<size_t>(size));
      for (int64_t i = 0; i < size; ++i) {
        const float x = all[n * size + i];
        tokens[static_cast<size_t>(i)] = {std::isnan(x) ? kInfinity : x, i};  // an order needs numbers
      }
      std::fill(line, line + size, true);
      const int64_t kept = keep(tokens, k[n], p[n]);
      for (int64_t i = 0; i < kept; ++i) line[tokens[static_cast<size_t>(i)].index] = false;
    }
  });
  return cut;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(portable_cpu, m) { m.def("top_k_top_p(Tensor logits, Tensor top_k, Tensor top_p) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(portable_cpu, CPU, m) { m.impl("top_k_top_p", TORCH_BOX(&top_k_top_p)); }

}  // namespace portable
