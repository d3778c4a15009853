// TCP sockets with deadlines: everything above waits for a peer no longer than it said it would.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace hccl {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

// Deadline::max() means to wait for ever; `seconds` 0 asks for that, as in HCCL_EXEC_TIMEOUT=0.
Deadline deadline_after(int64_t seconds);

struct Address {
  char host[64];  // dotted IPv4
  uint32_t port;  // 0: not known
};

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket();
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept;

  static Socket connect(const Address& address, Deadline deadline);

  bool open() const { return descriptor_ >= 0; }
  // True when all bytes went through; false when the peer is gone. Throws HCCL_E_TIMEOUT at the deadline.
  bool send(const void* data, size_t bytes, Deadline deadline) const;
  bool receive(void* data, size_t bytes, Deadline deadline) const;
  void stop_sending() const;
  void stop() const;  // wakes a thread that waits in receive()

 private:
  friend class Listener;
  int descriptor_ = -1;
};

class Listener {
 public:
  // Binds `host` to a port that the system picks.
  explicit Listener(const std::string& host);
  const Address& address() const { return address_; }
  Socket accept(Deadline deadline) const;

 private:
  Socket socket_;
  Address address_{};
};

// This machine as its peers reach it: HCCL_IF_IP where it is set, else loopback (one machine).
std::string own_host();

}  // namespace hccl
