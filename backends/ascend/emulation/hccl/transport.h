// Frames between the ranks of one communicator. A thread a peer reads whatever arrives into that peer's inbox, so
// a send never waits for the other side to ask: two ranks that both send first cannot block each other.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <third_party/hccl/inc/hccl/hccl_types.h>
#include "wire.h"

namespace hccl {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

enum class Operation : uint32_t {
  all_reduce,
  all_gather,
  all_gather_v,
  reduce_scatter,
  reduce_scatter_v,
  broadcast,
  reduce,
  scatter,
  all_to_all,
  all_to_all_v,
  barrier,
  send,
};

// What one rank believes it is doing. Ranks of one collective must send equal calls.
struct Call {
  Operation operation;
  HcclDataType dtype = HCCL_DATA_TYPE_INT8;
  HcclReduceOp reduce_op = HCCL_REDUCE_SUM;
  uint32_t root = 0;
  uint64_t count = 0;     // elements a rank passes; 0 where ranks may differ
  uint64_t sequence = 0;  // collectives of the communicator, or sends of this pair, before this one

  bool operator==(const Call&) const = default;
};

std::string to_string(const Call& call);

struct Frame {
  Call call;
  std::vector<std::byte> payload;
};

class Transport {
 public:
  // Collectives and point-to-point messages are two lanes: each keeps its order, neither waits for the other.
  enum class Lane : uint32_t { collective, point, abort, leave, left };

  Transport(uint32_t rank, std::vector<Socket> sockets);
  ~Transport();  // tells the peers, so that they can tell an orderly end from a death

  void send(uint32_t peer, Lane lane, const Call& call, ConstBytes payload, Deadline deadline);
  // The next frame of `lane` from `peer`. Throws HCCL_E_TIMEOUT, or HCCL_E_REMOTE when the peer is gone or gave up.
  Frame receive(uint32_t peer, Lane lane, Deadline deadline);
  // Tell every peer that this rank gave up, and why, so that none waits for its timeout.
  void abort(const std::string& reason);

 private:
  struct Peer {
    Socket socket;
    std::mutex sending;
    std::array<std::deque<Frame>, 2> inbox;
    std::string last_call;  // what it was last heard to do, for the error message
    bool leaving = false;   // it destroyed its communicator
    bool acknowledged = false;
    bool gone = false;
    std::thread reader;
  };

  bool post(uint32_t peer, Lane lane, const Call& call, ConstBytes payload, Deadline deadline);
  void tell(uint32_t peer, Lane lane, const std::string& reason = {}) noexcept;
  void read_from(uint32_t peer);
  std::string absence(uint32_t peer) const;

  const uint32_t rank_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::mutex mutex_;  // guards all of Peer but socket and sending
  std::condition_variable arrived_;
  std::string abort_reason_;
};

}  // namespace hccl
