#include "triton/memory.h"

#include <map>
#include <mutex>

#include "ops/registry.h"

namespace flux::triton {
namespace {

/// The size of the vectors that GPU kernels load.
constexpr uintptr_t kGpuAlignment = 16;

}  // namespace

MemoryLocation location_of(const Device& device) {
  return device.is_cpu() ? MemoryLocation{} : MemoryLocation{MemoryType::kGpu, device.index};
}

Device device_of(const MemoryLocation& location) {
  if (location.type != MemoryType::kGpu) return Device{};
  return Device{Device::Kind::kCuda, static_cast<int>(location.id)};
}

void copy_anywhere(Context& ctx, const ConstTensor& from, const Tensor& to) {
  const bool on_host = from.device().is_cpu() && to.device().is_cpu();
  if (on_host || !ctx.device().is_cpu()) return copy(ctx, from, to);
  Context gpu(backend_for(from.device().is_cpu() ? to.device() : from.device()), 1);
  copy(gpu, from, to);
  finish(gpu);
}

void release_memory(Context& ctx) {
  finish(ctx);
  ctx.workspace().release();
  ctx.memory().release();
}

std::shared_ptr<MemoryPool> pipeline_memory(const Device& device) {
  static std::mutex mutex;
  static std::map<std::string, std::weak_ptr<MemoryPool>> pools;  // by the device's name
  const std::scoped_lock lock(mutex);
  std::weak_ptr<MemoryPool>& known = pools[to_string(device)];
  std::shared_ptr<MemoryPool> pool = known.lock();
  if (pool == nullptr) known = pool = std::make_shared<MemoryPool>(backend_for(device));
  return pool;
}

bool is_usable(const Context& ctx, const ConstTensor& tensor) {
  const bool on_host = tensor.device().is_cpu();
  if (!on_host && ctx.device().is_cpu()) return false;
  const uintptr_t alignment = on_host ? size_of(tensor.dtype()) : kGpuAlignment;
  return reinterpret_cast<uintptr_t>(tensor.raw()) % alignment == 0;
}

}  // namespace flux::triton
