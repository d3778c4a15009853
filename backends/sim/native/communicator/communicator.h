// A communicator for the simulated device: a real c10d backend whose bytes travel over another one for CPU tensors.
//
// Like the vendors' communicators it runs collectives on streams of its own, waits by ordering the caller's stream, and takes
// contiguous device tensors only.
#pragma once

#include "work.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

#include <pybind11/chrono.h>

#include <set>

namespace portable::sim {

// What the imitated chip's communicator cannot do. Names as in torch.distributed ("all_reduce", "coalescing") and of
// reduce operations in small letters ("avg", "premul_sum").
struct CommunicatorMask {
  std::set<std::string> collectives;
  std::set<std::string> reduce_ops;
  std::set<c10::ScalarType> dtypes;
};

void set_communicator_mask(CommunicatorMask mask);

class Communicator final : public c10d::Backend {
 public:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  using Tensors = std::vector<at::Tensor>;

  Communicator(std::string name, std::string group, c10::intrusive_ptr<c10d::Backend> transport,
               std::chrono::milliseconds timeout);

  const std::string getBackendName() const override { return name_; }
  c10::intrusive_ptr<Options> getBackendOptions() override { return options_; }
  void setSequenceNumberForGroup() override {}
  uint64_t getSequenceNumberForGroup() override { return num_launched_; }
  void abort() override { transport_->abort(); }
  void shutdown() override { transport_->shutdown(); }

  bool supportsCoalescing() const override;
  void startCoalescing() override;
  WorkPtr endCoalescing() override;

  WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override;
  WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override;
  WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override;
  WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override;
  WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override;
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_coalesced(std::vector<Tensors>& outputs, Tensors& inputs,
                              const c10d::AllgatherOptions& options) override;
  WorkPtr allgather_into_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::AllgatherOptions& options) override;
  WorkPtr gather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override;
  WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override;
  WorkPtr reduce_scatter(Tensors& outputs, std::vector<Tensors>& inputs,
                         const c10d::ReduceScatterOptions& options) override;
  WorkPtr _reduce_scatter_base(at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override;
  WorkPtr reduce_scatter_tensor_coalesced(Tensors& outputs, Tensors& inputs,
                                          const c10d::ReduceScatterOptions& options) override;
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                        std::vector<int64_t>& input_splits, const c10d::AllToAllOptions& options) override;
  WorkPtr alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override;
  WorkPtr send(Tensors& tensors, int destination, int tag) override;
  WorkPtr recv(Tensors& tensors, int source, int tag) override;
  WorkPtr recvAnysource(Tensors& tensors, int tag) override;
  WorkPtr barrier(const c10d::BarrierOptions& options) override;

 private:
  struct Call {
    const char* name;  // as in torch.distributed
    c10d::OpType type;
    Tensors inputs;
    Tensors outputs;
    bool async = true;
  };

  void check(const Call& call) const;
  void check_reduce(const char* name, const c10d::ReduceOp& op) const;
  // Checks, orders, then hands over to `transport`, which gets nothing and returns the work; `finish` runs at its end.
  WorkPtr run(Call call, const std::function<WorkPtr()>& transport, std::function<void()> finish = nullptr);
  WorkPtr grouped(std::vector<WorkPtr> parts);

  std::string name_;
  std::string group_;
  c10::intrusive_ptr<c10d::Backend> transport_;
  c10::intrusive_ptr<Options> options_;
  std::array<std::optional<c10::Stream>, kMaxDevices> streams_;
  uint64_t num_launched_ = 0;
  bool coalescing_ = false;
  std::vector<WorkPtr> coalesced_;
};

void bind_communicator(pybind11::module_& module);

}  // namespace portable::sim
