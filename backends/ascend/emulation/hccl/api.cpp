// HCCL's C functions as torch_npu 2.13.0 looks them up, declared by the header that it ships, so that a signature
// which changes with a release does not compile. A collective is done when its call returns: streams of the
// emulated runtime have no work of their own. What is not here is absent, and torch_npu names it.
#include <third_party/hccl/inc/hccl/hccl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "collectives.h"
#include "failure.h"
#include "rendezvous.h"

extern "C" void emulated_cann_explain(const char* message);  // for aclGetRecentErrMsg

namespace {

using hccl::Communicator;
using hccl::Failure;
using hccl::Layout;
using hccl::Operation;
using hccl::require;

// HcclGetCommConfigCapability answers with how many entries of HcclCommConfigCapability are understood; the
// algorithm, the retry settings and the buffer name, which come after these, are not.
constexpr uint32_t kConfigCapability = HCCL_COMM_CONFIG_EXEC_TIMEOUT + 1;

constexpr int64_t kExecTimeoutS = 1836;    // HCCL's own defaults
constexpr int64_t kConnectTimeoutS = 120;

int64_t seconds_from(const char* variable, int64_t otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end = nullptr;
  const long long seconds = std::strtoll(text, &end, 10);
  require(*end == '\0' && seconds >= 0, HCCL_E_PARA, variable, "=", text, " is not a number of seconds");
  return seconds;
}

HcclResult answer(const char* function, const std::function<void()>& body) {
  HcclResult code = HCCL_E_INTERNAL;
  std::string reason;
  try {
    body();
    return HCCL_SUCCESS;
  } catch (const Failure& failure) {
    code = failure.code;
    reason = failure.what();
  } catch (const std::bad_alloc&) {
    code = HCCL_E_MEMORY;
    reason = "this machine has not enough memory for the exchange";
  } catch (const std::exception& error) {
    reason = error.what();
  }
  emulated_cann_explain(hccl::text("emulated HCCL: ", function, ": ", reason).c_str());
  return code;
}

// Handles that are alive. A call keeps its communicator until it is done, whoever destroys it meanwhile.
std::mutex handles_mutex;
std::map<HcclComm, std::shared_ptr<Communicator>>& handles() {
  static auto* alive = new std::map<HcclComm, std::shared_ptr<Communicator>>;  // never destroyed: exit has no order
  return *alive;
}

std::shared_ptr<Communicator> find(HcclComm handle) {
  std::lock_guard lock(handles_mutex);
  const auto found = handles().find(handle);
  require(found != handles().end(), HCCL_E_PARA, "the communicator was never made or is destroyed");
  return found->second;
}

HcclComm keep(std::shared_ptr<Communicator> made) {
  std::lock_guard lock(handles_mutex);
  HcclComm handle = made.get();
  handles()[handle] = std::move(made);
  return handle;
}

struct Settings {
  std::string name;
  int64_t timeout_s = 0;
};

Settings read(const HcclCommConfig* config) {
  Settings settings{"", seconds_from("HCCL_EXEC_TIMEOUT", kExecTimeoutS)};
  if (config == nullptr) return settings;
  struct {
    size_t size;
    uint32_t magic;
  } head;
  std::memcpy(&head, config, sizeof head);
  require(head.magic == HCCL_COMM_CONFIG_MAGIC_WORD && head.size == sizeof *config, HCCL_E_PARA,
          "the configuration is not that of the release the emulator knows");
  settings.name = std::string(config->hcclCommName, strnlen(config->hcclCommName, COMM_NAME_MAX_LENGTH));
  if (config->hcclExecTimeOut != HCCL_COMM_EXECTIMEOUT_CONFIG_NOT_SET) settings.timeout_s = config->hcclExecTimeOut;
  return settings;
}

HcclComm make(uint32_t num_ranks, const HcclRootInfo& info, uint32_t rank, Settings settings) {
  require(rank < num_ranks, HCCL_E_PARA, "rank ", rank, " is outside a communicator of ", num_ranks);
  auto sockets = hccl::join(info, rank, num_ranks, seconds_from("HCCL_CONNECT_TIMEOUT", kConnectTimeoutS));
  static int number = 0;
  if (settings.name.empty()) settings.name = "hccl_communicator_" + std::to_string(++number);
  return keep(std::make_shared<Communicator>(rank, std::move(sockets), settings.name, settings.timeout_s));
}

void check_reducible(HcclDataType dtype, HcclReduceOp op) { hccl::check_reducible(dtype, op, aclrtGetSocName()); }

Layout layout_of(const void* counts, const void* offsets, uint32_t num_ranks) {
  const auto* counted = static_cast<const uint64_t*>(counts);
  const auto* placed = static_cast<const uint64_t*>(offsets);
  return {{counted, counted + num_ranks}, {placed, placed + num_ranks}};
}

// Between HcclGroupStart and HcclGroupEnd sends and receives are only noted; then all sends leave before the first
// receive waits, also over several communicators: torch_npu makes one for every pair of ranks.
thread_local int group_depth = 0;
thread_local std::vector<std::pair<HcclComm, HcclSendRecvItem>> group_items;

void send_receive(HcclComm comm, std::span<const HcclSendRecvItem> items) {
  const auto found = find(comm);
  if (group_depth == 0) return found->send_receive(items);
  for (const HcclSendRecvItem& item : items) group_items.emplace_back(comm, item);
}

void finish_group() {
  const auto items = std::exchange(group_items, {});
  for (const HcclSendRecvType kind : {HCCL_SEND, HCCL_RECV}) {
    for (const auto& [comm, item] : items) {
      if (item.sendRecvType == kind) find(comm)->send_receive({&item, 1});
    }
  }
}

void check_same(HcclDataType sent, HcclDataType received) {
  require(sent == received, HCCL_E_NOT_SUPPORT, "data of type ", static_cast<int>(sent),
          " cannot be received as type ", static_cast<int>(received));
}

}  // namespace

extern "C" {

HcclResult HcclGetRootInfo(HcclRootInfo* info) {
  return answer(__func__, [=] { hccl::open_root(*info, seconds_from("HCCL_CONNECT_TIMEOUT", kConnectTimeoutS)); });
}

HcclResult HcclCommInitRootInfoConfig(uint32_t num_ranks, const HcclRootInfo* info, uint32_t rank,
                                      const HcclCommConfig* config, HcclComm* comm) {
  return answer(__func__, [=] { *comm = make(num_ranks, *info, rank, read(config)); });
}

HcclResult HcclCommInitRootInfo(uint32_t num_ranks, const HcclRootInfo* info, uint32_t rank, HcclComm* comm) {
  return HcclCommInitRootInfoConfig(num_ranks, info, rank, nullptr, comm);
}

// Several roots share the work of a large cluster's start; here the first is enough.
HcclResult HcclGetRootInfoScalable(HcclRootInfo* info) { return HcclGetRootInfo(info); }

HcclResult HcclCommInitRootInfoScalable(uint32_t num_ranks, uint32_t num_roots, const HcclRootInfo* infos,
                                        uint32_t rank, uint32_t, const HcclCommConfig* config, HcclComm* comm) {
  return answer(__func__, [=] {
    require(num_roots > 0, HCCL_E_PARA, "there is no root");
    *comm = make(num_ranks, infos[0], rank, read(config));
  });
}

HcclResult HcclCreateSubCommConfig(HcclComm* comm, uint32_t num_ranks, uint32_t* ranks, uint64_t, uint32_t sub_rank,
                                   HcclCommConfig* config, HcclComm* sub_comm) {
  return answer(__func__, [=] {
    const auto parent = find(*comm);
    HcclRootInfo info{};
    if (sub_rank == 0) hccl::open_root(info, seconds_from("HCCL_CONNECT_TIMEOUT", kConnectTimeoutS));
    parent->share_root(info, {ranks, num_ranks});
    *sub_comm = make(num_ranks, info, sub_rank, read(config));
  });
}

HcclResult HcclCommDestroy(HcclComm comm) {
  return answer(__func__, [=] {
    const auto last = find(comm);  // outlives the lock: its destructor waits for the peers
    std::lock_guard lock(handles_mutex);
    handles().erase(comm);
  });
}

HcclResult HcclGetCommName(HcclComm comm, char* name) {
  return answer(__func__, [=] {
    const std::string known = find(comm)->name();
    name[known.copy(name, COMM_NAME_MAX_LENGTH - 1)] = '\0';
  });
}

HcclResult HcclGetRankSize(HcclComm comm, uint32_t* size) {
  return answer(__func__, [=] { *size = find(comm)->size(); });
}

HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank) {
  return answer(__func__, [=] { *rank = find(comm)->rank(); });
}

// A failure is the answer of the call that met it, so none is left to be found later.
HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult* error) {
  return answer(__func__, [=] {
    find(comm);
    *error = HCCL_SUCCESS;
  });
}

uint32_t HcclGetCommConfigCapability() { return kConfigCapability; }

const char* HcclGetErrorString(HcclResult code) {
  switch (code) {
    case HCCL_SUCCESS: return "no error";
    case HCCL_E_PARA: return "parameter error";
    case HCCL_E_MEMORY: return "memory error";
    case HCCL_E_INTERNAL: return "internal error";
    case HCCL_E_NOT_SUPPORT: return "not supported";
    case HCCL_E_SYSCALL: return "a system call failed";
    case HCCL_E_TIMEOUT: return "timeout";
    case HCCL_E_TCP_CONNECT: return "could not connect";
    case HCCL_E_REMOTE: return "a remote rank failed";
    default: return "unknown error";
  }
}

// Reductions here are in the order of ranks, so they are deterministic whatever is asked for.
HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue) {
  return answer(__func__, [=] { require(config == HCCL_DETERMINISTIC, HCCL_E_NOT_SUPPORT, "setting ", config); });
}

HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* value) {
  return answer(__func__, [=] {
    require(config == HCCL_DETERMINISTIC, HCCL_E_NOT_SUPPORT, "setting ", config);
    value->value = 1;
  });
}

HcclResult HcclAllReduce(void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op, HcclComm comm,
                         aclrtStream) {
  return answer(__func__, [=] {
    check_reducible(dtype, op);
    find(comm)->all_reduce(send, receive, count, dtype, op);
  });
}

HcclResult HcclReduce(void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op, uint32_t root,
                      HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_reducible(dtype, op);
    find(comm)->reduce(send, receive, count, dtype, op, root);
  });
}

HcclResult HcclReduceScatter(void* send, void* receive, uint64_t count, HcclDataType dtype, HcclReduceOp op,
                             HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_reducible(dtype, op);
    const auto found = find(comm);
    found->reduce_scatter(Operation::reduce_scatter, send, Layout::even(found->size(), count), receive, dtype, op);
  });
}

HcclResult HcclReduceScatterV(void* send, const void* counts, const void* offsets, void* receive, uint64_t count,
                              HcclDataType dtype, HcclReduceOp op, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_reducible(dtype, op);
    const auto found = find(comm);
    const Layout sent = layout_of(counts, offsets, found->size());
    require(sent.counts[found->rank()] == count, HCCL_E_PARA, "the own block has ", sent.counts[found->rank()],
            " elements and the result ", count);
    found->reduce_scatter(Operation::reduce_scatter_v, send, sent, receive, dtype, op);
  });
}

HcclResult HcclAllGather(void* send, void* receive, uint64_t count, HcclDataType dtype, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    const auto found = find(comm);
    found->all_gather(Operation::all_gather, send, receive, Layout::even(found->size(), count), dtype);
  });
}

HcclResult HcclAllGatherV(void* send, uint64_t count, void* receive, const void* counts, const void* offsets,
                          HcclDataType dtype, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    const auto found = find(comm);
    const Layout received = layout_of(counts, offsets, found->size());
    require(received.counts[found->rank()] == count, HCCL_E_PARA, "the own block has ",
            received.counts[found->rank()], " elements and ", count, " are sent");
    found->all_gather(Operation::all_gather_v, send, receive, received, dtype);
  });
}

HcclResult HcclBroadcast(void* buffer, uint64_t count, HcclDataType dtype, uint32_t root, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] { find(comm)->broadcast(buffer, count, dtype, root); });
}

HcclResult HcclScatter(void* send, void* receive, uint64_t count, HcclDataType dtype, uint32_t root, HcclComm comm,
                       aclrtStream) {
  return answer(__func__, [=] { find(comm)->scatter(send, receive, count, dtype, root); });
}

HcclResult HcclAlltoAll(const void* send, uint64_t send_count, HcclDataType send_dtype, const void* receive,
                        uint64_t receive_count, HcclDataType receive_dtype, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_same(send_dtype, receive_dtype);
    const auto found = find(comm);
    found->all_to_all(Operation::all_to_all, send, Layout::even(found->size(), send_count), const_cast<void*>(receive),
                      Layout::even(found->size(), receive_count), send_dtype);
  });
}

HcclResult HcclAlltoAllV(const void* send, const void* send_counts, const void* send_offsets, HcclDataType send_dtype,
                         const void* receive, const void* receive_counts, const void* receive_offsets,
                         HcclDataType receive_dtype, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_same(send_dtype, receive_dtype);
    const auto found = find(comm);
    const Layout sent = layout_of(send_counts, send_offsets, found->size());
    const Layout received = layout_of(receive_counts, receive_offsets, found->size());
    found->all_to_all(Operation::all_to_all_v, send, sent, const_cast<void*>(receive), received, send_dtype);
  });
}

// The matrix holds at [i][j] what rank i sends to rank j; blocks lie packed in the order of ranks.
HcclResult HcclAlltoAllVC(const void* send, const void* count_matrix, HcclDataType send_dtype, const void* receive,
                          HcclDataType receive_dtype, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    check_same(send_dtype, receive_dtype);
    const auto found = find(comm);
    const uint32_t size = found->size();
    const auto* matrix = static_cast<const uint64_t*>(count_matrix);
    std::vector<uint64_t> received(size);
    for (uint32_t rank = 0; rank < size; ++rank) received[rank] = matrix[rank * size + found->rank()];
    found->all_to_all(Operation::all_to_all_v, send, Layout::packed({matrix + found->rank() * size, size}),
                      const_cast<void*>(receive), Layout::packed(received), send_dtype);
  });
}

HcclResult HcclBarrier(HcclComm comm, aclrtStream) {
  return answer(__func__, [=] { find(comm)->barrier(); });
}

HcclResult HcclGroupStart() {
  ++group_depth;
  return HCCL_SUCCESS;
}

HcclResult HcclGroupEnd() {
  return answer(__func__, [] {
    require(group_depth > 0, HCCL_E_PARA, "no group was started");
    if (--group_depth == 0) finish_group();
  });
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem* items, uint32_t num_items, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] { send_receive(comm, {items, num_items}); });
}

HcclResult HcclSend(void* buffer, uint64_t count, HcclDataType dtype, uint32_t peer, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    const HcclSendRecvItem item{HCCL_SEND, buffer, count, dtype, peer};
    send_receive(comm, {&item, 1});
  });
}

HcclResult HcclRecv(void* buffer, uint64_t count, HcclDataType dtype, uint32_t peer, HcclComm comm, aclrtStream) {
  return answer(__func__, [=] {
    const HcclSendRecvItem item{HCCL_RECV, buffer, count, dtype, peer};
    send_receive(comm, {&item, 1});
  });
}

}  // extern "C"
