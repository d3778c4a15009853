// What the imitated chip can do, checked at every operator, and what was asked of it, counted.
#pragma once

#include "redispatch.h"
#include "../machine/memory.h"

#include <map>
#include <set>
#include <string>
#include <vector>

namespace portable::sim {

// Number formats that the chip lacks: a tensor of them is refused.
void deny_dtypes(std::set<c10::ScalarType> dtypes);
void check_dtype(c10::ScalarType dtype, const char* op);

// Number formats that the chip can store but not multiply matrices of.
void deny_matmul_dtypes(std::set<c10::ScalarType> dtypes);

// Operators ("aten::mm", or "aten::mm.out" for one overload) that the chip refuses outright.
void deny_operators(std::set<std::string> names);

// The chip's own operators; all others run on the CPU and are counted as fallbacks. Empty: it has all.
void set_operator_table(std::set<std::string> names);

// Fallbacks are refused instead of counted.
void set_strict(bool on);

std::map<std::string, int64_t> operator_counts();
std::map<std::string, int64_t> fallback_counts();
void reset_counts();

// Counts and orders work that does not come through the boxed kernel. Returns its step.
Step start(const char* op, const c10::Stream& stream, const std::vector<Touch>& touches);

void install_policy();

}  // namespace portable::sim
