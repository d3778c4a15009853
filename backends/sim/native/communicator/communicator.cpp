#include "communicator.h"

#include "../operator/policy.h"
#include "reduction.h"

namespace portable::sim {
namespace {

using Tensors = std::vector<at::Tensor>;

CommunicatorMask mask;

// The elements in the order of memory; never a copy, since results are written through it.
at::Tensor flat(const at::Tensor& host) { return host.as_strided({host.numel()}, {1}, host.storage_offset()); }

// The transport moves bytes: what it cannot name (8-bit floats, complex numbers) it can still carry.
at::Tensor as_bytes(const at::Tensor& tensor) { return flat(host_alias(tensor)).view(at::kByte); }

Tensors as_bytes(const Tensors& tensors) {
  Tensors bytes;
  for (const auto& tensor : tensors) bytes.push_back(as_bytes(tensor));
  return bytes;
}

// (rows, bytes of a row): splits count rows.
at::Tensor as_rows(const at::Tensor& tensor) {
  const auto host = host_alias(tensor);
  const int64_t rows = host.dim() == 0 ? 1 : host.size(0);
  const int64_t row_elements = rows == 0 ? 0 : host.numel() / rows;
  return host.view({rows, row_elements}).view(at::kByte);
}

Tensors joined(const std::vector<Tensors>& lists) {
  Tensors all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

}  // namespace

void set_communicator_mask(CommunicatorMask chosen) { mask = std::move(chosen); }

Communicator::Communicator(std::string name, std::string group, c10::intrusive_ptr<c10d::Backend> transport,
                           std::chrono::milliseconds timeout)
    : Backend(transport->getRank(), transport->getSize()),
      name_(std::move(name)),
      group_(std::move(group)),
      transport_(std::move(transport)),
      options_(c10::make_intrusive<Options>(name_, timeout)) {}

void Communicator::check(const Call& call) const {
  TORCH_CHECK_NOT_IMPLEMENTED(mask.collectives.count(call.name) == 0, name_, " on ", chip(), " has no ", call.name,
                              "; build it from another collective");
  std::optional<c10::Device> device;
  for (const auto* tensors : {&call.inputs, &call.outputs}) {
    for (const auto& tensor : *tensors) {
      TORCH_CHECK(tensor.device().type() == kType, name_, ": ", call.name, " takes tensors of this device, not of ",
                  tensor.device(), "; give those to a group for that device");
      TORCH_CHECK(!device || *device == tensor.device(), name_, ": ", call.name, " got tensors on ", *device, " and on ",
                  tensor.device(), "; one process speaks for one device at a time");
      TORCH_CHECK(tensor.is_contiguous(tensor.suggest_memory_format()), name_, ": ", call.name,
                  " takes contiguous tensors; this one has sizes ", tensor.sizes(), " and strides ", tensor.strides());
      TORCH_CHECK_NOT_IMPLEMENTED(mask.dtypes.count(tensor.scalar_type()) == 0, name_, " on ", chip(), " does not carry ",
                                  tensor.scalar_type(), "; send it as another format or as bytes");
      device = tensor.device();
    }
  }
}

void Communicator::check_reduce(const char* name, const c10d::ReduceOp& op) const {
  TORCH_CHECK_NOT_IMPLEMENTED(mask.reduce_ops.count(name_of(op)) == 0, name_, " on ", chip(), " cannot reduce by ",
                              name_of(op), " (asked for in ", name, "); use sum and scale");
}

Communicator::WorkPtr Communicator::run(Call call, const std::function<WorkPtr()>& transport, std::function<void()> finish) {
  check(call);
  const auto& first = call.outputs.empty() ? call.inputs : call.outputs;
  const auto index = first.empty() ? current_device() : first.front().device().index();
  const auto current = current_stream(index);
  auto stream = current;
  if (call.async) {
    auto& own = streams_[index];
    if (!own) own = communicator_stream(index);
    stream = *own;
    stream_waits(stream, clock_of(current));
  }
  std::vector<Touch> touches;
  for (const auto& tensor : call.inputs) {
    if (auto use = touch(tensor, false)) touches.push_back(*use);
  }
  for (const auto& tensor : call.outputs) {
    if (auto use = touch(tensor, true)) touches.push_back(*use);
  }
  start(call.name, stream, touches);
  ++num_launched_;
  const auto title = c10::str(call.name, " on rank ", getRank(), " of ", getSize(), " in group '", group_, "' (", name_, ")");
  auto held = call.inputs;
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  auto work = c10::make_intrusive<DeviceWork>(DeviceWork::Description{title, stream, call.type}, transport(),
                                              std::move(call.outputs), std::move(held), std::move(finish));
  remember(work);
  if (coalescing_) coalesced_.push_back(work);
  return work;
}

Communicator::WorkPtr Communicator::grouped(std::vector<WorkPtr> parts) {
  return c10::make_intrusive<GroupWork>(std::move(parts));
}

bool Communicator::supportsCoalescing() const { return mask.collectives.count("coalescing") == 0; }

// torch enters a list of its own before this call and clears it before endCoalescing: refusing here would leave the group
// queueing every later collective without running it. So a chip that lacks coalescing refuses at the end.
void Communicator::startCoalescing() {
  coalescing_ = true;
  coalesced_.clear();
}

Communicator::WorkPtr Communicator::endCoalescing() {
  coalescing_ = false;
  auto parts = std::exchange(coalesced_, {});
  TORCH_CHECK_NOT_IMPLEMENTED(supportsCoalescing(), name_, " on ", chip(), " has no coalescing; call one by one");
  return parts.empty() ? nullptr : grouped(std::move(parts));
}

Communicator::WorkPtr Communicator::broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) {
  return run({"broadcast", c10d::OpType::BROADCAST, {}, tensors, options.asyncOp}, [&] {
    auto bytes = as_bytes(tensors);
    return transport_->broadcast(bytes, options);
  });
}

Communicator::WorkPtr Communicator::allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) {
  check_reduce("all_reduce", options.reduceOp);
  const auto host = flat(host_alias(tensors.at(0)));
  return run(
      {"all_reduce", c10d::OpType::ALLREDUCE, {}, tensors, options.asyncOp},
      [&] {
        scale_before(host, options.reduceOp);
        Tensors operand{as_summable(host, options.reduceOp)};
        auto sum = options;
        sum.reduceOp = transported(options.reduceOp);
        return transport_->allreduce(operand, sum);
      },
      [host, op = options.reduceOp, size = getSize()] { scale_after(host, op, size); });
}

Communicator::WorkPtr Communicator::allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) {
  TORCH_CHECK_NOT_IMPLEMENTED(supportsCoalescing(), name_, " on ", chip(), " has no coalescing; call one by one");
  std::vector<WorkPtr> parts;
  for (const auto& tensor : tensors) {
    Tensors one{tensor};
    parts.push_back(allreduce(one, options));
  }
  return grouped(std::move(parts));
}

Communicator::WorkPtr Communicator::reduce(Tensors& tensors, const c10d::ReduceOptions& options) {
  check_reduce("reduce", options.reduceOp);
  const bool root = options.rootRank == getRank();
  const auto host = flat(host_alias(tensors.at(0)));
  Call call{"reduce", c10d::OpType::REDUCE, {}, {}, options.asyncOp};
  (root ? call.outputs : call.inputs) = tensors;
  return run(
      std::move(call),
      [&] {
        // The transport uses the operand as scratch; only the root's tensor may change.
        const auto scratch = root ? host : host.clone();
        scale_before(scratch, options.reduceOp);
        Tensors operand{as_summable(scratch, options.reduceOp)};
        auto sum = options;
        sum.reduceOp = transported(options.reduceOp);
        return transport_->reduce(operand, sum);
      },
      [host, root, op = options.reduceOp, size = getSize()] {
        if (root) scale_after(host, op, size);
      });
}

Communicator::WorkPtr Communicator::allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                              const c10d::AllgatherOptions& options) {
  return run({"all_gather", c10d::OpType::ALLGATHER, inputs, joined(outputs), options.asyncOp}, [&] {
    std::vector<Tensors> to;
    for (const auto& list : outputs) to.push_back(as_bytes(list));
    auto from = as_bytes(inputs);
    return transport_->allgather(to, from, options);
  });
}

Communicator::WorkPtr Communicator::_allgather_base(at::Tensor& output, at::Tensor& input,
                                                    const c10d::AllgatherOptions& options) {
  TORCH_CHECK(output.scalar_type() == input.scalar_type() && output.numel() == input.numel() * getSize(), name_,
              ": all_gather_into_tensor of ", input.sizes(), " over ", getSize(), " ranks does not fit ", output.sizes());
  return run({"all_gather", c10d::OpType::_ALLGATHER_BASE, {input}, {output}, options.asyncOp}, [&] {
    auto to = as_bytes(output);
    auto from = as_bytes(input);
    return transport_->_allgather_base(to, from, options);
  });
}

Communicator::WorkPtr Communicator::allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                                                        const c10d::AllgatherOptions& options) {
  TORCH_CHECK_NOT_IMPLEMENTED(supportsCoalescing(), name_, " on ", chip(), " has no coalescing; call one by one");
  std::vector<WorkPtr> parts;
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<Tensors> to(1);
    for (const auto& list : outputs) to[0].push_back(list.at(i));
    Tensors from{inputs[i]};
    parts.push_back(allgather(to, from, options));
  }
  return grouped(std::move(parts));
}

Communicator::WorkPtr Communicator::allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                    const c10d::AllgatherOptions& options) {
  TORCH_CHECK_NOT_IMPLEMENTED(supportsCoalescing(), name_, " on ", chip(), " has no coalescing; call one by one");
  std::vector<WorkPtr> parts;
  for (size_t i = 0; i < inputs.size(); ++i) parts.push_back(_allgather_base(outputs.at(i), inputs[i], options));
  return grouped(std::move(parts));
}

Communicator::WorkPtr Communicator::gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) {
  return run({"gather", c10d::OpType::GATHER, inputs, joined(outputs), options.asyncOp}, [&] {
    std::vector<Tensors> to;
    for (const auto& list : outputs) to.push_back(as_bytes(list));
    auto from = as_bytes(inputs);
    return transport_->gather(to, from, options);
  });
}

Communicator::WorkPtr Communicator::scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                            const c10d::ScatterOptions& options) {
  return run({"scatter", c10d::OpType::SCATTER, joined(inputs), outputs, options.asyncOp}, [&] {
    std::vector<Tensors> from;
    for (const auto& list : inputs) from.push_back(as_bytes(list));
    auto to = as_bytes(outputs);
    return transport_->scatter(to, from, options);
  });
}

Communicator::WorkPtr Communicator::reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                                                   const c10d::ReduceScatterOptions& options) {
  check_reduce("reduce_scatter", options.reduceOp);
  auto output = outputs.at(0);
  for (const auto& input : inputs.at(0)) {
    TORCH_CHECK(input.numel() == output.numel(), name_, ": reduce_scatter needs inputs of one size; reduce them one by one");
  }
  const auto host = flat(host_alias(output));
  return run(
      {"reduce_scatter", c10d::OpType::REDUCE_SCATTER, inputs[0], outputs, options.asyncOp},
      [&] {
        Tensors parts;
        for (const auto& input : inputs[0]) parts.push_back(flat(host_alias(input)));
        auto from = at::cat(parts);
        scale_before(from, options.reduceOp);
        from = as_summable(from, options.reduceOp);
        auto to = as_summable(host, options.reduceOp);
        auto sum = options;
        sum.reduceOp = transported(options.reduceOp);
        return transport_->_reduce_scatter_base(to, from, sum);
      },
      [host, op = options.reduceOp, size = getSize()] { scale_after(host, op, size); });
}

Communicator::WorkPtr Communicator::_reduce_scatter_base(at::Tensor& output, at::Tensor& input,
                                                         const c10d::ReduceScatterOptions& options) {
  check_reduce("reduce_scatter", options.reduceOp);
  TORCH_CHECK(output.scalar_type() == input.scalar_type() && output.numel() * getSize() == input.numel(), name_,
              ": reduce_scatter_tensor of ", input.sizes(), " over ", getSize(), " ranks does not fit ", output.sizes());
  const auto host = flat(host_alias(output));
  return run(
      {"reduce_scatter", c10d::OpType::_REDUCE_SCATTER_BASE, {input}, {output}, options.asyncOp},
      [&] {
        auto from = flat(host_alias(input)).clone();  // scratch for the factor and for the transport
        scale_before(from, options.reduceOp);
        from = as_summable(from, options.reduceOp);
        auto to = as_summable(host, options.reduceOp);
        auto sum = options;
        sum.reduceOp = transported(options.reduceOp);
        return transport_->_reduce_scatter_base(to, from, sum);
      },
      [host, op = options.reduceOp, size = getSize()] { scale_after(host, op, size); });
}

Communicator::WorkPtr Communicator::reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                                                    const c10d::ReduceScatterOptions& options) {
  TORCH_CHECK_NOT_IMPLEMENTED(supportsCoalescing(), name_, " on ", chip(), " has no coalescing; call one by one");
  std::vector<WorkPtr> parts;
  for (size_t i = 0; i < inputs.size(); ++i) parts.push_back(_reduce_scatter_base(outputs.at(i), inputs[i], options));
  return grouped(std::move(parts));
}

Communicator::WorkPtr Communicator::alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                                                  std::vector<int64_t>& input_splits, const c10d::AllToAllOptions& options) {
  c10d::checkSplitSizes(input_splits, input, getSize());
  c10d::checkSplitSizes(output_splits, output, getSize());
  return run({"all_to_all", c10d::OpType::ALLTOALL_BASE, {input}, {output}, options.asyncOp}, [&] {
    auto to = as_rows(output);
    auto from = as_rows(input);
    return transport_->alltoall_base(to, from, output_splits, input_splits, options);
  });
}

Communicator::WorkPtr Communicator::alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) {
  std::vector<int64_t> output_splits;
  std::vector<int64_t> input_splits;
  for (const auto& tensor : outputs) output_splits.push_back(static_cast<int64_t>(tensor.nbytes()));
  for (const auto& tensor : inputs) input_splits.push_back(static_cast<int64_t>(tensor.nbytes()));
  int64_t total = 0;
  for (const auto split : output_splits) total += split;
  auto arrived = at::empty({total}, at::TensorOptions(at::kCPU).dtype(at::kByte));
  return run(
      {"all_to_all", c10d::OpType::ALLTOALL, inputs, outputs, options.asyncOp},
      [&] {
        auto from = at::cat(as_bytes(inputs));
        return transport_->alltoall_base(arrived, from, output_splits, input_splits, options);
      },
      [arrived, to = as_bytes(outputs), output_splits] {
        const auto parts = arrived.split_with_sizes(output_splits);
        for (size_t i = 0; i < to.size(); ++i) to[i].copy_(parts[i]);
      });
}

Communicator::WorkPtr Communicator::send(Tensors& tensors, int destination, int tag) {
  return run({"send", c10d::OpType::SEND, tensors, {}}, [&] {
    auto bytes = as_bytes(tensors);
    return transport_->send(bytes, destination, tag);
  });
}

Communicator::WorkPtr Communicator::recv(Tensors& tensors, int source, int tag) {
  return run({"recv", c10d::OpType::RECV, {}, tensors}, [&] {
    auto bytes = as_bytes(tensors);
    return transport_->recv(bytes, source, tag);
  });
}

Communicator::WorkPtr Communicator::recvAnysource(Tensors& tensors, int tag) {
  return run({"recv", c10d::OpType::RECVANYSOURCE, {}, tensors}, [&] {
    auto bytes = as_bytes(tensors);
    return transport_->recvAnysource(bytes, tag);
  });
}

Communicator::WorkPtr Communicator::barrier(const c10d::BarrierOptions& options) {
  return run({"barrier", c10d::OpType::BARRIER, {}, {}, options.asyncOp}, [&] { return transport_->barrier(options); });
}

void bind_communicator(pybind11::module_& module) {
  pybind11::module_::import("torch._C._distributed_c10d");
  pybind11::class_<Communicator, c10d::Backend, c10::intrusive_ptr<Communicator>>(module, "Communicator")
      .def(pybind11::init<std::string, std::string, c10::intrusive_ptr<c10d::Backend>, std::chrono::milliseconds>(),
           pybind11::arg("name"), pybind11::arg("group"), pybind11::arg("transport"), pybind11::arg("timeout"));
  module.def("set_communicator_mask", [](std::set<std::string> collectives, std::set<std::string> reduce_ops,
                                         const std::vector<c10::ScalarType>& dtypes) {
    set_communicator_mask({std::move(collectives), std::move(reduce_ops), {dtypes.begin(), dtypes.end()}});
  });
}

}  // namespace portable::sim
