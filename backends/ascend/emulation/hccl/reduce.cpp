#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "collectives.h"
#include "failure.h"

namespace hccl {
namespace {

// Integers wrap around as hardware does; in C++ only unsigned ones may.
template <typename T>
T add(T a, T b) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
  else return a + b;
}

template <typename T>
T multiply(T a, T b) {
  if constexpr (std::is_integral_v<T>) return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
  else return a * b;
}

template <typename T>
bool is_nan(T value) {
  if constexpr (std::is_integral_v<T>) return false;
  else return std::isnan(static_cast<float>(value));
}

// NaN wins, as in torch's own maximum and minimum.
template <typename T>
T larger(T a, T b) { return is_nan(a) || a > b ? a : b; }

template <typename T>
T smaller(T a, T b) { return is_nan(a) || a < b ? a : b; }

template <typename T, T (*combine)(T, T)>
void fold_elements(std::byte* accumulator, const std::byte* other, uint64_t count) {
  T* into = reinterpret_cast<T*>(accumulator);
  const T* from = reinterpret_cast<const T*>(other);
  for (uint64_t i = 0; i < count; ++i) into[i] = combine(into[i], from[i]);
}

template <typename T>
void fold_as(std::byte* accumulator, const std::byte* other, uint64_t count, HcclReduceOp op) {
  switch (op) {
    case HCCL_REDUCE_SUM: return fold_elements<T, add<T>>(accumulator, other, count);
    case HCCL_REDUCE_PROD: return fold_elements<T, multiply<T>>(accumulator, other, count);
    case HCCL_REDUCE_MAX: return fold_elements<T, larger<T>>(accumulator, other, count);
    case HCCL_REDUCE_MIN: return fold_elements<T, smaller<T>>(accumulator, other, count);
    default: throw Failure(HCCL_E_NOT_SUPPORT, text("HCCL has no reduce operation ", static_cast<int>(op)));
  }
}

bool reducible_dtype(HcclDataType dtype) {
  switch (dtype) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_FP32:
    case HCCL_DATA_TYPE_BFP16:
      return true;
    default:
      return false;
  }
}

}  // namespace

size_t element_bytes(HcclDataType dtype) {
  switch (dtype) {
    case HCCL_DATA_TYPE_INT8:
    case HCCL_DATA_TYPE_UINT8:
    case HCCL_DATA_TYPE_HIF8:
    case HCCL_DATA_TYPE_FP8E4M3:
    case HCCL_DATA_TYPE_FP8E5M2:
    case HCCL_DATA_TYPE_FP8E8M0:
      return 1;
    case HCCL_DATA_TYPE_INT16:
    case HCCL_DATA_TYPE_UINT16:
    case HCCL_DATA_TYPE_FP16:
    case HCCL_DATA_TYPE_BFP16:
      return 2;
    case HCCL_DATA_TYPE_INT32:
    case HCCL_DATA_TYPE_UINT32:
    case HCCL_DATA_TYPE_FP32:
      return 4;
    case HCCL_DATA_TYPE_INT64:
    case HCCL_DATA_TYPE_UINT64:
    case HCCL_DATA_TYPE_FP64:
      return 8;
    case HCCL_DATA_TYPE_INT128:
      return 16;
    default:
      throw Failure(HCCL_E_PARA, text("there is no HCCL data type ", static_cast<int>(dtype)));
  }
}

void check_reducible(HcclDataType dtype, HcclReduceOp op, const std::string& soc) {
  require(op == HCCL_REDUCE_SUM || op == HCCL_REDUCE_PROD || op == HCCL_REDUCE_MAX || op == HCCL_REDUCE_MIN,
          HCCL_E_NOT_SUPPORT, "HCCL reduces by sum, prod, max and min, not by operation ", static_cast<int>(op));
  const bool is_310p = soc.find("310P") != std::string::npos;
  const bool is_16_bit_integer = dtype == HCCL_DATA_TYPE_INT16;
  bool supported = reducible_dtype(dtype);
  if (is_310p) {
    supported = supported && dtype != HCCL_DATA_TYPE_INT64 && dtype != HCCL_DATA_TYPE_BFP16 &&
                !(is_16_bit_integer && op != HCCL_REDUCE_SUM);
  } else {
    supported = supported && !(op == HCCL_REDUCE_PROD && (is_16_bit_integer || dtype == HCCL_DATA_TYPE_BFP16));
  }
  require(supported, HCCL_E_NOT_SUPPORT, "HCCL on ", soc, " does not reduce ",
          to_string(Call{.operation = Operation::all_reduce, .dtype = dtype, .reduce_op = op}),
          "; cast to float32 or int32 first");
}

void fold(std::byte* accumulator, const std::byte* other, uint64_t count, HcclDataType dtype, HcclReduceOp op) {
  switch (dtype) {
    case HCCL_DATA_TYPE_INT8: return fold_as<int8_t>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_INT16: return fold_as<int16_t>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_INT32: return fold_as<int32_t>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_INT64: return fold_as<int64_t>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_FP16: return fold_as<c10::Half>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_BFP16: return fold_as<c10::BFloat16>(accumulator, other, count, op);
    case HCCL_DATA_TYPE_FP32: return fold_as<float>(accumulator, other, count, op);
    default: throw Failure(HCCL_E_NOT_SUPPORT, text("HCCL does not reduce data type ", static_cast<int>(dtype)));
  }
}

}  // namespace hccl
