#include "collectives.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "failure.h"

namespace hccl {
namespace {

template <typename Byte>
std::vector<std::span<Byte>> blocks(Byte* buffer, const Layout& layout, size_t element) {
  std::vector<std::span<Byte>> spans;
  for (size_t rank = 0; rank < layout.counts.size(); ++rank) {
    spans.emplace_back(buffer + layout.offsets[rank] * element, layout.counts[rank] * element);
  }
  return spans;
}

const std::byte* bytes_of(const void* buffer) { return static_cast<const std::byte*>(buffer); }
std::byte* bytes_of(void* buffer) { return static_cast<std::byte*>(buffer); }

}  // namespace

Layout Layout::packed(std::span<const uint64_t> counts) {
  Layout layout{{counts.begin(), counts.end()}, std::vector<uint64_t>(counts.size())};
  std::exclusive_scan(counts.begin(), counts.end(), layout.offsets.begin(), uint64_t{0});
  return layout;
}

Layout Layout::even(uint32_t num_ranks, uint64_t count) {
  return packed(std::vector<uint64_t>(num_ranks, count));
}

Layout Layout::sliced(uint32_t num_ranks, uint64_t count) {
  std::vector<uint64_t> counts(num_ranks, count / num_ranks);
  for (uint64_t rank = 0; rank < count % num_ranks; ++rank) ++counts[rank];
  return packed(counts);
}

Communicator::Communicator(uint32_t rank, std::vector<Socket> sockets, std::string name, int64_t timeout_s)
    : rank_(rank),
      size_(static_cast<uint32_t>(sockets.size())),
      name_(std::move(name)),
      timeout_s_(timeout_s),
      num_sent_(sockets.size()),
      num_received_(sockets.size()),
      transport_(rank, std::move(sockets)) {}

// One call from start to end: whatever stops it breaks the communicator, and all ranks hear of it.
template <typename Body>
void Communicator::run(Call call, Body body) {
  std::lock_guard lock(one_at_a_time_);
  require(broken_.empty(), HCCL_E_REMOTE, "the communicator ", name_, " failed earlier: ", broken_);
  require(call.root < size_, HCCL_E_PARA, "root ", call.root, " is outside the ", size_, " ranks of ", name_);
  if (call.operation != Operation::send) call.sequence = ++num_collectives_;
  try {
    body(call, deadline_after(timeout_s_));
  } catch (const Failure& failure) {
    broken_ = text("rank ", rank_, " of ", size_, " in ", name_, ", ", to_string(call), ": ", failure.what());
    if (failure.code == HCCL_E_TIMEOUT) broken_ += text(" (", timeout_s_, " s, HCCL_EXEC_TIMEOUT)");
    transport_.abort(broken_);
    throw Failure(failure.code, broken_);
  }
}

// The one primitive: block p of `outgoing` goes to rank p, block p of `incoming` comes from it. Every rank hears
// from every other, even where no bytes travel, because that is how a rank in another collective is found out.
void Communicator::exchange(const Call& call, std::span<const ConstBytes> outgoing, std::span<const Bytes> incoming,
                            Deadline deadline) {
  for (uint32_t step = 1; step < size_; ++step) {
    const uint32_t peer = (rank_ + step) % size_;  // not all ranks at the same one at the same time
    transport_.send(peer, Transport::Lane::collective, call, outgoing[peer], deadline);
  }
  const ConstBytes own = outgoing[rank_];
  require(own.size() == incoming[rank_].size(), HCCL_E_PARA, "the block for the own rank is ", own.size(),
          " bytes to send and ", incoming[rank_].size(), " to receive");
  if (!own.empty()) std::memmove(incoming[rank_].data(), own.data(), own.size());
  for (uint32_t step = 1; step < size_; ++step) {
    const uint32_t peer = (rank_ + size_ - step) % size_;
    const Frame frame = transport_.receive(peer, Transport::Lane::collective, deadline);
    require(frame.call == call, HCCL_E_PARA, "rank ", peer, " called ", to_string(frame.call), " instead");
    require(frame.payload.size() == incoming[peer].size(), HCCL_E_PARA, "rank ", peer, " sends ",
            frame.payload.size(), " bytes where ", incoming[peer].size(), " are expected");
    if (!frame.payload.empty()) std::memcpy(incoming[peer].data(), frame.payload.data(), frame.payload.size());
  }
}

void Communicator::fold_in_rank_order(std::byte* result, std::span<const std::byte> contributions, uint64_t count,
                                      const Call& call) const {
  const size_t bytes = count * element_bytes(call.dtype);
  if (bytes == 0) return;
  std::memcpy(result, contributions.data(), bytes);
  for (uint32_t rank = 1; rank < size_; ++rank) {
    fold(result, contributions.data() + rank * bytes, count, call.dtype, call.reduce_op);
  }
}

// Each rank reduces its slice for all and hands it round: 2(n-1)/n of the data a rank, and equal bits everywhere.
void Communicator::all_reduce(const void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op) {
  run({.operation = Operation::all_reduce, .dtype = dtype, .reduce_op = op, .count = count},
      [&](const Call& call, Deadline deadline) {
        const size_t element = element_bytes(dtype);
        const Layout slices = Layout::sliced(size_, count);
        const uint64_t own_count = slices.counts[rank_];
        std::vector<std::byte> contributions(size_ * own_count * element);
        exchange(call, blocks(bytes_of(send), slices, element),
                 blocks(contributions.data(), Layout::even(size_, own_count), element), deadline);
        std::byte* own = bytes_of(receive) + slices.offsets[rank_] * element;
        fold_in_rank_order(own, contributions, own_count, call);
        const std::vector<ConstBytes> to_all(size_, ConstBytes(own, own_count * element));
        exchange(call, to_all, blocks(bytes_of(receive), slices, element), deadline);
      });
}

void Communicator::reduce(const void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op,
                          uint32_t root) {
  run({.operation = Operation::reduce, .dtype = dtype, .reduce_op = op, .root = root, .count = count},
      [&](const Call& call, Deadline deadline) {
        const size_t bytes = count * element_bytes(dtype);
        std::vector<ConstBytes> outgoing(size_);
        outgoing[root] = ConstBytes(bytes_of(send), bytes);
        std::vector<std::byte> contributions(rank_ == root ? size_ * bytes : 0);
        std::vector<Bytes> incoming(size_);
        for (uint32_t rank = 0; rank < size_ && rank_ == root; ++rank) {
          incoming[rank] = Bytes(contributions.data() + rank * bytes, bytes);
        }
        exchange(call, outgoing, incoming, deadline);
        if (rank_ == root) fold_in_rank_order(bytes_of(receive), contributions, count, call);
      });
}

void Communicator::reduce_scatter(Operation operation, const void* send, const Layout& sent, void* receive,
                                  HcclDataType dtype, HcclReduceOp op) {
  const uint64_t count = operation == Operation::reduce_scatter ? sent.counts[rank_] : 0;
  run({.operation = operation, .dtype = dtype, .reduce_op = op, .count = count},
      [&](const Call& call, Deadline deadline) {
        const size_t element = element_bytes(dtype);
        const uint64_t own_count = sent.counts[rank_];
        std::vector<std::byte> contributions(size_ * own_count * element);
        exchange(call, blocks(bytes_of(send), sent, element),
                 blocks(contributions.data(), Layout::even(size_, own_count), element), deadline);
        fold_in_rank_order(bytes_of(receive), contributions, own_count, call);
      });
}

void Communicator::all_gather(Operation operation, const void* send, void* receive, const Layout& received,
                              HcclDataType dtype) {
  const uint64_t count = operation == Operation::all_gather ? received.counts[rank_] : 0;
  run({.operation = operation, .dtype = dtype, .count = count}, [&](const Call& call, Deadline deadline) {
    const size_t element = element_bytes(dtype);
    const std::vector<ConstBytes> to_all(size_, ConstBytes(bytes_of(send), received.counts[rank_] * element));
    exchange(call, to_all, blocks(bytes_of(receive), received, element), deadline);
  });
}

void Communicator::broadcast(void* buffer, uint64_t count, HcclDataType dtype, uint32_t root) {
  run({.operation = Operation::broadcast, .dtype = dtype, .root = root, .count = count},
      [&](const Call& call, Deadline deadline) {
        const Bytes whole(bytes_of(buffer), count * element_bytes(dtype));
        std::vector<ConstBytes> outgoing(size_, rank_ == root ? ConstBytes(whole) : ConstBytes());
        std::vector<Bytes> incoming(size_);
        incoming[root] = whole;
        exchange(call, outgoing, incoming, deadline);
      });
}

void Communicator::scatter(const void* send, void* receive, uint64_t count, HcclDataType dtype, uint32_t root) {
  run({.operation = Operation::scatter, .dtype = dtype, .root = root, .count = count},
      [&](const Call& call, Deadline deadline) {
        const size_t element = element_bytes(dtype);
        std::vector<ConstBytes> outgoing(size_);
        if (rank_ == root) outgoing = blocks(bytes_of(send), Layout::even(size_, count), element);
        std::vector<Bytes> incoming(size_);
        incoming[root] = Bytes(bytes_of(receive), count * element);
        exchange(call, outgoing, incoming, deadline);
      });
}

void Communicator::all_to_all(Operation operation, const void* send, const Layout& sent, void* receive,
                              const Layout& received, HcclDataType dtype) {
  const uint64_t count = operation == Operation::all_to_all ? sent.counts[rank_] : 0;
  run({.operation = operation, .dtype = dtype, .count = count}, [&](const Call& call, Deadline deadline) {
    const size_t element = element_bytes(dtype);
    exchange(call, blocks(bytes_of(send), sent, element), blocks(bytes_of(receive), received, element), deadline);
  });
}

void Communicator::barrier() {
  run({.operation = Operation::barrier}, [&](const Call& call, Deadline deadline) {
    exchange(call, std::vector<ConstBytes>(size_), std::vector<Bytes>(size_), deadline);
  });
}

// All sends leave before the first receive waits, so the order inside a batch cannot block two ranks.
void Communicator::send_receive(std::span<const HcclSendRecvItem> items) {
  for (const HcclSendRecvItem& item : items) {
    require(item.remoteRank < size_, HCCL_E_PARA, "rank ", item.remoteRank, " is outside the ", size_, " of ", name_);
    require(item.sendRecvType == HCCL_SEND || item.sendRecvType == HCCL_RECV, HCCL_E_PARA, "an item of the batch is ",
            "neither a send nor a receive");
  }
  const auto transfer = [&](const HcclSendRecvItem& item) {
    const bool sends = item.sendRecvType == HCCL_SEND;
    uint64_t& number = sends ? num_sent_[item.remoteRank] : num_received_[item.remoteRank];
    const Call named{.operation = Operation::send, .dtype = item.dataType, .count = item.count, .sequence = number + 1};
    run(named, [&](const Call& call, Deadline deadline) {
      const size_t bytes = item.count * element_bytes(item.dataType);
      ++number;
      if (sends) {
        transport_.send(item.remoteRank, Transport::Lane::point, call, {bytes_of(item.buf), bytes}, deadline);
        return;
      }
      const Frame frame = transport_.receive(item.remoteRank, Transport::Lane::point, deadline);
      require(frame.call == call, HCCL_E_PARA, "the receive does not match what rank ", item.remoteRank, " sent, ",
              to_string(frame.call));
      if (bytes > 0) std::memcpy(item.buf, frame.payload.data(), bytes);
    });
  };
  for (const HcclSendRecvItem& item : items) {
    if (item.sendRecvType == HCCL_SEND) transfer(item);
  }
  for (const HcclSendRecvItem& item : items) {
    if (item.sendRecvType == HCCL_RECV) transfer(item);
  }
}

void Communicator::share_root(HcclRootInfo& info, std::span<const uint32_t> ranks) {
  const uint32_t first = ranks.front();
  std::vector<HcclSendRecvItem> items;
  if (rank_ == first) {
    for (const uint32_t rank : ranks.subspan(1)) {
      items.push_back({HCCL_SEND, info.internal, sizeof info, HCCL_DATA_TYPE_UINT8, rank});
    }
  } else {
    items.push_back({HCCL_RECV, info.internal, sizeof info, HCCL_DATA_TYPE_UINT8, first});
  }
  send_receive(items);
}

}  // namespace hccl
