#include "runtime/fence.h"

#include "ops/cuda/cuda_backend.h"
#include "ops/cuda/state.h"

namespace flux::cuda {
namespace {

class Event final : public Fence {
 public:
  explicit Event(const State& state) : device_(state.device()) {
    check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
    const cudaError_t recorded = cudaEventRecord(event_, state.stream());
    if (recorded == cudaSuccess) return;
    cudaEventDestroy(event_);
    check_cuda(recorded, "cudaEventRecord");
  }
  // CUDA lets an event go when it has been reached.
  ~Event() override { cudaEventDestroy(event_); }

  void wait() const override {
    check_cuda(cudaSetDevice(device_), "cudaSetDevice");
    check_cuda(cudaEventSynchronize(event_), "the computation");
  }

  cudaEvent_t event() const { return event_; }

 private:
  int device_;
  cudaEvent_t event_ = nullptr;
};

}  // namespace

std::shared_ptr<const Fence> CudaBackend::make_fence(Context& ctx) {
  return std::make_shared<Event>(state_of(ctx));
}

void CudaBackend::wait_for(Context& ctx, const Fence& fence) {
  const auto& event = static_cast<const Event&>(fence);
  check_cuda(cudaStreamWaitEvent(state_of(ctx).stream(), event.event(), 0), "cudaStreamWaitEvent");
}

}  // namespace flux::cuda
