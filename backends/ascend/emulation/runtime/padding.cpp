// The one operator that torch_npu starts on the chip past torch's dispatcher, where no kernel can take its place:
// ProcessGroupHCCL pads the blocks of an all-gather of a list with zeros, to 512 bytes. With it come the handles
// that describe operands to CANN's operator library. Everything else in libopapi.so is absent.
#include <cstring>
#include <memory>
#include <vector>

#include "state.h"

using emulation::fail;

struct aclTensor {
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  size_t element_bytes;
  char* first;
};

struct aclIntArray {
  std::vector<int64_t> values;
};

struct aclScalar {
  bool is_zero;
};

struct aclOpExecutor {
  const aclTensor* input;
  const aclIntArray* padding;  // torch's order: of the last dim first, before and after
  const aclTensor* output;
};

namespace {

size_t bytes_of(aclDataType dtype) {
  switch (dtype) {
    case ACL_BOOL:
    case ACL_INT8:
    case ACL_UINT8:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
    case ACL_UINT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
    case ACL_UINT32:
      return 4;
    case ACL_DOUBLE:
    case ACL_INT64:
    case ACL_UINT64:
      return 8;
    case ACL_COMPLEX128:
      return 16;
    default:
      return 0;  // refused when an operator meets it
  }
}

int64_t before(const aclIntArray& padding, size_t num_dims, size_t dim) {
  const size_t pair = 2 * (num_dims - 1 - dim);
  return pair < padding.values.size() ? padding.values[pair] : 0;
}

// Copies `input` from dimension `dim` on; the output is zeros already.
void copy_inside(const aclOpExecutor& call, size_t dim, const char* from, char* to) {
  const aclTensor& input = *call.input;
  if (dim == input.sizes.size()) {
    std::memcpy(to, from, input.element_bytes);
    return;
  }
  const int64_t bytes = static_cast<int64_t>(input.element_bytes);
  to += before(*call.padding, input.sizes.size(), dim) * call.output->strides[dim] * bytes;
  for (int64_t i = 0; i < input.sizes[dim]; ++i)
    copy_inside(call, dim + 1, from + i * input.strides[dim] * bytes, to + i * call.output->strides[dim] * bytes);
}

size_t num_elements(const aclTensor& tensor) {
  size_t count = 1;
  for (int64_t size : tensor.sizes) count *= static_cast<size_t>(size);
  return count;
}

}  // namespace

extern "C" {

aclTensor* aclCreateTensor(const int64_t* sizes, uint64_t num_dims, aclDataType dtype, const int64_t* strides,
                           int64_t offset, aclFormat, const int64_t*, uint64_t, void* data) {
  const size_t element = bytes_of(dtype);
  char* first = static_cast<char*>(data) + offset * static_cast<int64_t>(element);
  return new aclTensor{{sizes, sizes + num_dims}, {strides, strides + num_dims}, element, first};
}
aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t size) { return new aclIntArray{{values, values + size}}; }
aclScalar* aclCreateScalar(void* value, aclDataType dtype) {
  const char zeros[16] = {};
  return new aclScalar{std::memcmp(value, zeros, bytes_of(dtype)) == 0};
}
int aclDestroyTensor(const aclTensor* tensor) {
  delete tensor;
  return 0;
}
int aclDestroyIntArray(const aclIntArray* array) {
  delete array;
  return 0;
}
int aclDestroyScalar(const aclScalar* scalar) {
  delete scalar;
  return 0;
}

int aclnnConstantPadNdGetWorkspaceSize(const aclTensor* input, const aclIntArray* padding, const aclScalar* value,
                                       const aclTensor* output, uint64_t* workspace_bytes, aclOpExecutor** executor) {
  bool known = value->is_zero && input->element_bytes > 0;
  for (int64_t amount : padding->values) known = known && amount >= 0;
  if (!known) return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "aclnnConstantPadNd pads by zeros only here");
  *workspace_bytes = 0;
  *executor = new aclOpExecutor{input, padding, output};
  return ACL_SUCCESS;
}

int aclnnConstantPadNd(void*, uint64_t, aclOpExecutor* executor, aclrtStream) {
  const std::unique_ptr<aclOpExecutor> call(executor);
  std::memset(call->output->first, 0, num_elements(*call->output) * call->output->element_bytes);
  copy_inside(*call, 0, call->input->first, call->output->first);
  return ACL_SUCCESS;
}

}  // extern "C"
