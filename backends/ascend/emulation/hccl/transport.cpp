#include "transport.h"

#include <algorithm>
#include <cstring>

#include "failure.h"

namespace hccl {
namespace {

struct FrameHeader {
  uint64_t bytes = 0;
  Transport::Lane lane{};
  Call call{};
};

// In the order of Operation, HcclDataType and HcclReduceOp.
constexpr const char* kOperations[] = {"all_reduce", "all_gather", "all_gather_v", "reduce_scatter",
                                       "reduce_scatter_v", "broadcast", "reduce", "scatter",
                                       "all_to_all", "all_to_all_v", "barrier", "send"};

constexpr const char* kDtypes[] = {"int8",   "int16",    "int32",  "float16", "float32",     "int64",
                                   "uint64", "uint8",    "uint16", "uint32",  "float64",     "bfloat16",
                                   "int128", "dtype 13", "hifloat8", "float8_e4m3", "float8_e5m2", "float8_e8m0"};

constexpr const char* kReduceOps[] = {"sum", "prod", "max", "min"};

template <size_t Size>
std::string name_of(const char* const (&names)[Size], uint32_t index) {
  return index < Size ? names[index] : std::to_string(index);
}

bool has_reduce_op(Operation operation) {
  return operation == Operation::all_reduce || operation == Operation::reduce ||
         operation == Operation::reduce_scatter || operation == Operation::reduce_scatter_v;
}

bool has_root(Operation operation) {
  return operation == Operation::broadcast || operation == Operation::reduce || operation == Operation::scatter;
}

}  // namespace

std::string to_string(const Call& call) {
  std::string line = name_of(kOperations, static_cast<uint32_t>(call.operation)) + " #" + std::to_string(call.sequence);
  if (call.operation == Operation::barrier) return line;
  line += " of ";
  if (call.count > 0) line += std::to_string(call.count) + " ";
  line += name_of(kDtypes, call.dtype);
  if (has_reduce_op(call.operation)) line += " by " + name_of(kReduceOps, call.reduce_op);
  if (has_root(call.operation)) line += " with root " + std::to_string(call.root);
  return line;
}

Transport::Transport(uint32_t rank, std::vector<Socket> sockets) : rank_(rank) {
  for (Socket& socket : sockets) {
    peers_.push_back(std::make_unique<Peer>());
    peers_.back()->socket = std::move(socket);
  }
  for (uint32_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer != rank_) peers_[peer]->reader = std::thread(&Transport::read_from, this, peer);
  }
}

Transport::~Transport() {
  // A socket closed over unread bytes drops what was sent last; so wait shortly until each peer has read our leave.
  const Deadline soon = deadline_after(2);
  for (uint32_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer != rank_) tell(peer, Lane::leave);
  }
  {
    std::unique_lock lock(mutex_);
    arrived_.wait_until(lock, soon, [&] {
      return std::all_of(peers_.begin(), peers_.end(), [&](const auto& peer) {
        return peer->gone || peer->acknowledged || !peer->reader.joinable();
      });
    });
  }
  for (const auto& peer : peers_) {
    if (!peer->reader.joinable()) continue;
    peer->socket.stop();
    peer->reader.join();
  }
}

bool Transport::post(uint32_t peer, Lane lane, const Call& call, ConstBytes payload, Deadline deadline) {
  Peer& to = *peers_[peer];
  const FrameHeader header{payload.size(), lane, call};
  std::lock_guard lock(to.sending);
  try {
    return to.socket.send(&header, sizeof header, deadline) &&
           to.socket.send(payload.data(), payload.size(), deadline);
  } catch (const Failure&) {
    to.socket.stop();  // half a frame is out: whatever follows would be read as its rest
    throw;
  }
}

void Transport::tell(uint32_t peer, Lane lane, const std::string& reason) noexcept {
  try {
    post(peer, lane, Call{}, std::as_bytes(std::span(reason)), deadline_after(1));
  } catch (const Failure&) {
    // A peer that takes nothing any more will see the connection end.
  }
}

void Transport::send(uint32_t peer, Lane lane, const Call& call, ConstBytes payload, Deadline deadline) {
  if (peer == rank_) {
    std::lock_guard lock(mutex_);
    peers_[peer]->inbox[static_cast<size_t>(lane)].push_back({call, {payload.begin(), payload.end()}});
    arrived_.notify_all();
    return;
  }
  bool sent = false;
  try {
    sent = post(peer, lane, call, payload, deadline);
  } catch (const Failure& failure) {
    throw Failure(failure.code, text("rank ", peer, " does not take the data in time"));
  }
  if (sent) return;
  std::lock_guard lock(mutex_);
  throw Failure(HCCL_E_REMOTE, abort_reason_.empty() ? absence(peer) : abort_reason_);
}

Frame Transport::receive(uint32_t peer, Lane lane, Deadline deadline) {
  Peer& from = *peers_[peer];
  auto& inbox = from.inbox[static_cast<size_t>(lane)];
  std::unique_lock lock(mutex_);
  const auto settled = [&] { return !inbox.empty() || from.gone || from.leaving || !abort_reason_.empty(); };
  if (deadline == Deadline::max()) {
    arrived_.wait(lock, settled);
  } else {
    arrived_.wait_until(lock, deadline, settled);
  }
  if (!inbox.empty()) {
    Frame frame = std::move(inbox.front());
    inbox.pop_front();
    return frame;
  }
  if (!abort_reason_.empty()) throw Failure(HCCL_E_REMOTE, abort_reason_);
  if (from.gone || from.leaving) throw Failure(HCCL_E_REMOTE, absence(peer));
  throw Failure(HCCL_E_TIMEOUT, text("rank ", peer, " did not take part in time (last heard of: ",
                                     from.last_call.empty() ? "nothing yet" : from.last_call, ")"));
}

void Transport::abort(const std::string& reason) {
  {
    std::lock_guard lock(mutex_);
    if (!abort_reason_.empty()) return;  // the others know already
    abort_reason_ = reason;
  }
  for (uint32_t peer = 0; peer < peers_.size(); ++peer) {
    if (peer != rank_) tell(peer, Lane::abort, reason);
  }
}

void Transport::read_from(uint32_t peer) {
  Peer& from = *peers_[peer];
  FrameHeader header;
  while (from.socket.receive(&header, sizeof header, Deadline::max())) {
    Frame frame{header.call, std::vector<std::byte>(header.bytes)};
    if (!from.socket.receive(frame.payload.data(), header.bytes, Deadline::max())) break;
    // Answered before anything is noted: whoever leaves may close as soon as it has the answer.
    if (header.lane == Lane::leave) tell(peer, Lane::left);
    std::lock_guard lock(mutex_);
    switch (header.lane) {
      case Lane::collective:
      case Lane::point:
        from.last_call = to_string(header.call);
        from.inbox[static_cast<size_t>(header.lane)].push_back(std::move(frame));
        break;
      case Lane::abort:
        if (abort_reason_.empty()) {
          abort_reason_.assign(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
        }
        break;
      case Lane::leave:
        from.leaving = true;
        break;
      case Lane::left:
        from.acknowledged = true;
        break;
    }
    arrived_.notify_all();
  }
  std::lock_guard lock(mutex_);
  from.gone = true;
  arrived_.notify_all();
}

std::string Transport::absence(uint32_t peer) const {
  const Peer& absent = *peers_[peer];
  return text("rank ", peer, absent.leaving ? " has destroyed its communicator" : " is gone: its process ended",
              " (last heard of: ", absent.last_call.empty() ? "nothing" : absent.last_call, ")");
}

}  // namespace hccl
