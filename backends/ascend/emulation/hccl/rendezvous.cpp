#include "rendezvous.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "failure.h"

namespace hccl {
namespace {

constexpr uint64_t kMagic = 0x314c434348756d65;  // root infos of another library must not be mistaken for ours

struct RootPoint {
  uint64_t magic;
  uint64_t token;  // keeps a stray connection out
  Address address;
};
static_assert(sizeof(RootPoint) <= sizeof(HcclRootInfo));

struct Hello {
  uint64_t token;
  uint32_t rank;
  uint32_t num_ranks;
  Address address;
};

// The answer to every Hello: `num_ranks` addresses follow a success.
struct Answer {
  HcclResult code;
  char refusal[512];
};

struct Introduction {
  uint64_t token;
  uint32_t rank;
};

template <typename Record>
Record receive_record(const Socket& socket, Deadline deadline) {
  Record record;
  require(socket.receive(&record, sizeof record, deadline), HCCL_E_TCP_CONNECT, "the connection closed");
  return record;
}

// The ranks that have come so far, and what is wrong with them.
class Gathering {
 public:
  explicit Gathering(uint64_t token) : token_(token) {}

  bool complete() const { return num_ranks_ > 0 && num_joined_ == num_ranks_; }

  void add(Socket socket, Deadline deadline) {
    Hello hello;
    if (!socket.receive(&hello, sizeof hello, deadline) || hello.token != token_) return;  // not one of ours
    if (num_ranks_ == 0) {
      num_ranks_ = hello.num_ranks;
      members_.resize(num_ranks_);
    }
    waiting_.push_back(std::move(socket));
    require(hello.num_ranks == num_ranks_, HCCL_E_PARA, "rank ", hello.rank, " asks for a communicator of ",
            hello.num_ranks, " ranks and others for ", num_ranks_);
    require(hello.rank < num_ranks_, HCCL_E_PARA, "rank ", hello.rank, " is outside a communicator of ", num_ranks_);
    require(members_[hello.rank].port == 0, HCCL_E_PARA, "two processes asked to be rank ", hello.rank);
    members_[hello.rank] = hello.address;
    ++num_joined_;
  }

  void admit_all() const {
    for (const Socket& socket : waiting_) {
      if (tell(socket, HCCL_SUCCESS, "")) socket.send(members_.data(), members_.size() * sizeof(Address), soon());
    }
  }

  void refuse_all(HcclResult code, const std::string& reason) const {
    for (const Socket& socket : waiting_) tell(socket, code, reason);
  }

  std::string missing() const {
    std::string ranks;
    for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
      if (members_[rank].port == 0) ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
    }
    return ranks;
  }

  uint32_t num_ranks() const { return num_ranks_; }

 private:
  static Deadline soon() { return deadline_after(5); }

  static bool tell(const Socket& socket, HcclResult code, const std::string& reason) {
    Answer answer{code, {}};
    reason.copy(answer.refusal, sizeof answer.refusal - 1);
    return socket.send(&answer, sizeof answer, soon());
  }

  uint64_t token_;
  uint32_t num_ranks_ = 0;
  uint32_t num_joined_ = 0;
  std::vector<Address> members_;
  std::vector<Socket> waiting_;
};

void serve(const Listener& listener, uint64_t token, int64_t timeout_s) {
  Gathering gathering(token);
  // The clock starts with the first rank: a root info may lie about for as long as its owner likes.
  Deadline deadline = Deadline::max();
  try {
    while (!gathering.complete()) {
      Socket socket = listener.accept(deadline);
      if (gathering.num_ranks() == 0) deadline = deadline_after(timeout_s);
      gathering.add(std::move(socket), deadline);
    }
    gathering.admit_all();
  } catch (const Failure& failure) {
    const bool late = failure.code == HCCL_E_TIMEOUT;
    gathering.refuse_all(failure.code, late ? text("rank ", gathering.missing(), " of ", gathering.num_ranks(),
                                                   " did not join within ", timeout_s, " s (HCCL_CONNECT_TIMEOUT)")
                                            : failure.what());
  }
}

std::vector<Address> ask_root(const RootPoint& root, const Hello& hello, Deadline deadline) {
  const Socket socket = Socket::connect(root.address, deadline);
  require(socket.send(&hello, sizeof hello, deadline), HCCL_E_TCP_CONNECT, "the root closed the connection");
  // The root itself waits as long as we do; a little more lets its answer, which names who is missing, arrive.
  const Deadline later = deadline == Deadline::max() ? deadline : deadline + std::chrono::seconds(5);
  const auto answer = receive_record<Answer>(socket, later);
  require(answer.code == HCCL_SUCCESS, answer.code, answer.refusal);
  std::vector<Address> members(hello.num_ranks);
  require(socket.receive(members.data(), members.size() * sizeof(Address), deadline), HCCL_E_TCP_CONNECT,
          "the root closed the connection");
  return members;
}

}  // namespace

void open_root(HcclRootInfo& info, int64_t timeout_s) {
  auto listener = std::make_shared<Listener>(own_host());
  std::random_device random;
  const RootPoint root{kMagic, (uint64_t{random()} << 32) | random(), listener->address()};
  info = {};
  std::memcpy(info.internal, &root, sizeof root);
  std::thread([listener, token = root.token, timeout_s] { serve(*listener, token, timeout_s); }).detach();
}

std::vector<Socket> join(const HcclRootInfo& info, uint32_t rank, uint32_t num_ranks, int64_t timeout_s) {
  RootPoint root;
  std::memcpy(&root, info.internal, sizeof root);
  require(root.magic == kMagic, HCCL_E_PARA, "this root info was not made by HcclGetRootInfo of the emulated HCCL");
  const Deadline deadline = deadline_after(timeout_s);
  const Listener listener(own_host());
  const auto members = ask_root(root, Hello{root.token, rank, num_ranks, listener.address()}, deadline);

  std::vector<Socket> peers(num_ranks);
  for (uint32_t peer = 0; peer < rank; ++peer) {
    peers[peer] = Socket::connect(members[peer], deadline);
    const Introduction introduction{root.token, rank};
    require(peers[peer].send(&introduction, sizeof introduction, deadline), HCCL_E_TCP_CONNECT, "rank ", peer,
            " closed the connection");
  }
  for (uint32_t expected = num_ranks - 1 - rank; expected > 0;) {
    Socket socket = listener.accept(deadline);
    const auto introduction = receive_record<Introduction>(socket, deadline);
    if (introduction.token != root.token || introduction.rank >= num_ranks) continue;
    peers[introduction.rank] = std::move(socket);
    --expected;
  }
  return peers;
}

}  // namespace hccl
