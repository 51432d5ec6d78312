#include <nvtx3/nvToolsExt.h>

#include "ops/cuda/cuda_backend.h"

/// Ranges for NVIDIA's profilers. NVTX is a header; a profiler that started the program has told it
/// which library to load.
namespace flux::cuda {
namespace {

/// Null where no profiler is attached.
nvtxDomainHandle_t domain() {
  static const nvtxDomainHandle_t made = nvtxDomainCreateA("flux");
  return made;
}

}  // namespace

bool CudaBackend::has_profiler() const { return domain() != nullptr; }

void CudaBackend::push_range(const char* name) {
  nvtxEventAttributes_t range{};
  range.version = NVTX_VERSION;
  range.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  range.messageType = NVTX_MESSAGE_TYPE_ASCII;
  range.message.ascii = name;
  nvtxDomainRangePushEx(domain(), &range);
}

void CudaBackend::pop_range() { nvtxDomainRangePop(domain()); }

}  // namespace flux::cuda
