// The communicator: every collective is one or two exchanges of blocks, and every exchange carries what the rank
// believes it is doing, so that ranks which disagree are told instead of getting garbage.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include <third_party/hccl/inc/hccl/hccl_types.h>
#include "transport.h"

namespace hccl {

size_t element_bytes(HcclDataType dtype);

// accumulator[i] = accumulator[i] op other[i], rounded to `dtype` each time. Throws HCCL_E_NOT_SUPPORT.
void fold(std::byte* accumulator, const std::byte* other, uint64_t count, HcclDataType dtype, HcclReduceOp op);

// Refuse what the chip `soc` refuses (CANN's HCCL reference, "HcclAllReduce", data types): throws HCCL_E_NOT_SUPPORT.
void check_reducible(HcclDataType dtype, HcclReduceOp op, const std::string& soc);

// Where each rank's block lies in a buffer, in elements.
struct Layout {
  std::vector<uint64_t> counts;
  std::vector<uint64_t> offsets;

  static Layout even(uint32_t num_ranks, uint64_t count);       // `count` elements for every rank, packed
  static Layout sliced(uint32_t num_ranks, uint64_t count);     // `count` elements over all, as even as can be
  static Layout packed(std::span<const uint64_t> counts);
};

class Communicator {
 public:
  Communicator(uint32_t rank, std::vector<Socket> sockets, std::string name, int64_t timeout_s);

  uint32_t rank() const { return rank_; }
  uint32_t size() const { return size_; }
  const std::string& name() const { return name_; }
  int64_t timeout_s() const { return timeout_s_; }

  void all_reduce(const void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op);
  void reduce(const void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op, uint32_t root);
  void reduce_scatter(Operation operation, const void* send, const Layout& sent, void* receive, HcclDataType dtype,
                      HcclReduceOp op);
  void all_gather(Operation operation, const void* send, void* receive, const Layout& received, HcclDataType dtype);
  void broadcast(void* buffer, uint64_t count, HcclDataType dtype, uint32_t root);
  void scatter(const void* send, void* receive, uint64_t count, HcclDataType dtype, uint32_t root);
  void all_to_all(Operation operation, const void* send, const Layout& sent, void* receive, const Layout& received,
                  HcclDataType dtype);
  void barrier();
  void send_receive(std::span<const HcclSendRecvItem> items);
  // Hand the `info` of the first of `ranks` to the others of them; ranks outside do not call.
  void share_root(HcclRootInfo& info, std::span<const uint32_t> ranks);

 private:
  template <typename Body>
  void run(Call call, Body body);
  void exchange(const Call& call, std::span<const ConstBytes> outgoing, std::span<const Bytes> incoming,
                Deadline deadline);
  void fold_in_rank_order(std::byte* result, std::span<const std::byte> contributions, uint64_t count,
                          const Call& call) const;

  const uint32_t rank_;
  const uint32_t size_;
  const std::string name_;
  const int64_t timeout_s_;
  std::mutex one_at_a_time_;
  uint64_t num_collectives_ = 0;
  std::vector<uint64_t> num_sent_;
  std::vector<uint64_t> num_received_;
  std::string broken_;  // why nothing can be done with this communicator any more
  Transport transport_;
};

}  // namespace hccl
