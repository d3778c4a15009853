// How ranks that share only a root info find each other: the root's process answers at the address in it, waits
// for every rank, and tells all where the others listen; then each pair connects.
#pragma once

#include <cstdint>
#include <vector>

#include <third_party/hccl/inc/hccl/hccl_types.h>
#include "wire.h"

namespace hccl {

// Start to answer in the background and describe where in `info`. From the first rank on, all have `timeout_s`.
void open_root(HcclRootInfo& info, int64_t timeout_s);

// Join as `rank` of `num_ranks`; returns one connected socket a rank (the own one stays closed).
// Throws HCCL_E_TIMEOUT naming the ranks that did not come, HCCL_E_PARA when ranks disagree.
std::vector<Socket> join(const HcclRootInfo& info, uint32_t rank, uint32_t num_ranks, int64_t timeout_s);

}  // namespace hccl
