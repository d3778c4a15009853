#include "wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "failure.h"

namespace hccl {
namespace {

constexpr int kBacklog = 1024;

sockaddr_in to_native(const Address& address) {
  sockaddr_in native{};
  native.sin_family = AF_INET;
  native.sin_port = htons(static_cast<uint16_t>(address.port));
  require(inet_pton(AF_INET, address.host, &native.sin_addr) == 1, HCCL_E_PARA, "\"", address.host,
          "\" is not an IPv4 address; set HCCL_IF_IP to this machine's address");
  return native;
}

// Wait until the descriptor is ready for `events`; throws HCCL_E_TIMEOUT at the deadline.
void wait_ready(int descriptor, short events, Deadline deadline) {
  while (true) {
    int wait_ms = -1;
    if (deadline != Deadline::max()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
      wait_ms = static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
    }
    pollfd waited{descriptor, events, 0};
    const int ready = ::poll(&waited, 1, wait_ms);
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) throw Failure(HCCL_E_SYSCALL, text("poll failed: ", std::strerror(errno)));
    if (Clock::now() >= deadline) throw Failure(HCCL_E_TIMEOUT, "the peer did not answer in time");
  }
}

bool would_block() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

void send_at_once(int descriptor) {
  const int on = 1;  // a collective is a short question and answer: waiting to fill packets costs 40 ms each
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Deadline deadline_after(int64_t seconds) {
  return seconds <= 0 ? Deadline::max() : Clock::now() + std::chrono::seconds(seconds);
}

std::string own_host() {
  const char* chosen = std::getenv("HCCL_IF_IP");
  return chosen && *chosen ? chosen : "127.0.0.1";
}

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Socket& Socket::operator=(Socket&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

Socket Socket::connect(const Address& address, Deadline deadline) {
  const sockaddr_in native = to_native(address);
  while (true) {
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    require(socket.open(), HCCL_E_SYSCALL, "no socket: ", std::strerror(errno));
    if (::connect(socket.descriptor_, reinterpret_cast<const sockaddr*>(&native), sizeof native) == 0) {
      send_at_once(socket.descriptor_);
      return socket;
    }
    require(Clock::now() < deadline, HCCL_E_TCP_CONNECT, "could not reach ", address.host, ":", address.port, " (",
            std::strerror(errno), "); between machines set HCCL_IF_IP on each");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

bool Socket::send(const void* data, size_t bytes, Deadline deadline) const {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t sent = ::send(descriptor_, next, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      next += sent;
      bytes -= static_cast<size_t>(sent);
    } else if (sent < 0 && would_block()) {
      wait_ready(descriptor_, POLLOUT, deadline);
    } else {
      return false;
    }
  }
  return true;
}

bool Socket::receive(void* data, size_t bytes, Deadline deadline) const {
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t received = ::recv(descriptor_, next, bytes, MSG_DONTWAIT);
    if (received > 0) {
      next += received;
      bytes -= static_cast<size_t>(received);
    } else if (received < 0 && would_block()) {
      wait_ready(descriptor_, POLLIN, deadline);
    } else {
      return false;
    }
  }
  return true;
}

void Socket::stop_sending() const { ::shutdown(descriptor_, SHUT_WR); }

void Socket::stop() const { ::shutdown(descriptor_, SHUT_RDWR); }

Listener::Listener(const std::string& host) {
  require(host.size() < sizeof address_.host, HCCL_E_PARA, "the address \"", host, "\" is too long");
  std::memcpy(address_.host, host.c_str(), host.size() + 1);
  sockaddr_in native = to_native(address_);
  socket_ = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  require(socket_.open(), HCCL_E_SYSCALL, "no socket: ", std::strerror(errno));
  require(::bind(socket_.descriptor_, reinterpret_cast<sockaddr*>(&native), sizeof native) == 0 &&
              ::listen(socket_.descriptor_, kBacklog) == 0,
          HCCL_E_SYSCALL, "cannot listen on ", host, ": ", std::strerror(errno));
  socklen_t length = sizeof native;
  ::getsockname(socket_.descriptor_, reinterpret_cast<sockaddr*>(&native), &length);
  address_.port = ntohs(native.sin_port);
}

Socket Listener::accept(Deadline deadline) const {
  wait_ready(socket_.descriptor_, POLLIN, deadline);
  Socket accepted(::accept4(socket_.descriptor_, nullptr, nullptr, SOCK_CLOEXEC));
  require(accepted.open(), HCCL_E_SYSCALL, "accept failed: ", std::strerror(errno));
  send_at_once(accepted.descriptor_);
  return accepted;
}

}  // namespace hccl
