#include "generator.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <array>
#include <cstring>

namespace portable::sim {
namespace {

constexpr size_t kStateBytes = 16;
constexpr uint64_t kOffsetStep = 4;  // counter-based generators make four numbers a step; torch demands multiples of four

// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": the output function of SplitMix64.
uint64_t mixed(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

}  // namespace

Generator::Generator(c10::DeviceIndex index)
    : c10::GeneratorImpl(c10::Device(kType, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)) {}

void Generator::set_current_seed(uint64_t seed) {
  seed_ = seed;
  offset_ = 0;
}

void Generator::set_offset(uint64_t offset) {
  TORCH_CHECK(offset % kOffsetStep == 0, "offset=", offset, "; use a multiple of ", kOffsetStep);
  offset_ = offset;
}

uint64_t Generator::seed() {
  set_current_seed(c10::detail::getNonDeterministicRandom());
  return seed_;
}

void Generator::set_state(const c10::TensorImpl& state) {
  at::detail::check_rng_state(state);
  TORCH_CHECK(static_cast<size_t>(state.numel()) == kStateBytes, "a generator state of this device has ", kStateBytes,
              " bytes (seed and offset); this one has ", state.numel(), ": it is another device's");
  const auto* bytes = static_cast<const char*>(state.data());
  std::memcpy(&seed_, bytes, sizeof(seed_));
  std::memcpy(&offset_, bytes + sizeof(seed_), sizeof(offset_));
}

c10::intrusive_ptr<c10::TensorImpl> Generator::get_state() const {
  auto state = at::empty({static_cast<int64_t>(kStateBytes)}, at::TensorOptions(at::kCPU).dtype(at::kByte));
  auto* bytes = static_cast<char*>(state.mutable_data_ptr());
  std::memcpy(bytes, &seed_, sizeof(seed_));
  std::memcpy(bytes + sizeof(seed_), &offset_, sizeof(offset_));
  return state.getIntrusivePtr();
}

void Generator::graphsafe_set_state(const c10::intrusive_ptr<c10::GeneratorImpl>& state) { set_state(*state->get_state()); }

c10::intrusive_ptr<c10::GeneratorImpl> Generator::graphsafe_get_state() const { return clone(); }

at::Generator Generator::draw() {
  auto host = at::make_generator<at::CPUGeneratorImpl>(mixed(seed_ ^ mixed(offset_)));
  offset_ += kOffsetStep;
  return host;
}

Generator* Generator::clone_impl() const {
  auto* copy = new Generator(device_.index());
  copy->seed_ = seed_;
  copy->offset_ = offset_;
  return copy;
}

at::Generator new_generator(c10::DeviceIndex index) { return at::make_generator<Generator>(resolve(index)); }

const at::Generator& default_generator(c10::DeviceIndex index) {
  static auto* generators = [] {
    auto* made = new std::array<at::Generator, kMaxDevices>();
    for (int device = 0; device < kMaxDevices; ++device) {
      (*made)[device] = at::make_generator<Generator>(static_cast<c10::DeviceIndex>(device));
    }
    return made;
  }();
  return (*generators)[resolve(index)];
}

}  // namespace portable::sim
