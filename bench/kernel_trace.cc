// This library writes when each kernel of a program ran on the GPU, while the program runs as
// usual: many launches ahead, at the power limit. CUDA loads it into any program:
//   CUDA_INJECTION64_PATH=BUILD/bench/libkernel_trace.so KERNEL_TRACE=FILE PROGRAM
// Each kernel has a line: start and end in nanoseconds, name. kernel_profile.py reads it.
#include <cupti.h>
#include <cxxabi.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;
std::FILE* file = nullptr;

void write(const CUpti_ActivityKernel10& kernel) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(kernel.name, nullptr, nullptr, &status), &std::free);
  std::fprintf(file, "%llu %llu %s\n", static_cast<unsigned long long>(kernel.start),
               static_cast<unsigned long long>(kernel.end), name ? name.get() : kernel.name);
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *bytes = *buffer == nullptr ? 0 : kBufferBytes;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI take_buffer(CUcontext /*context*/, uint32_t /*stream*/, uint8_t* buffer,
                          size_t /*bytes*/, size_t valid) {
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      write(*reinterpret_cast<const CUpti_ActivityKernel10*>(record));
    }
  }
  std::free(buffer);
}

void finish() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::fclose(file);
}

bool begin(const char* path) {
  file = std::fopen(path, "w");
  if (file == nullptr) return false;
  constexpr uint32_t kFlushMs = 100;  // the driver may be gone when the program ends
  return cuptiActivityRegisterCallbacks(give_buffer, take_buffer) == CUPTI_SUCCESS &&
         cuptiActivityFlushPeriod(kFlushMs) == CUPTI_SUCCESS &&
         cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) == CUPTI_SUCCESS &&
         std::atexit(finish) == 0;
}

}  // namespace

// CUDA calls this function by its name.
extern "C" int InitializeInjection() {
  const char* path = std::getenv("KERNEL_TRACE");
  if (path != nullptr && begin(path)) return 1;
  std::fprintf(stderr, "kernel_trace: cannot trace to '%s': set KERNEL_TRACE to a file\n",
               path == nullptr ? "" : path);
  return 0;
}
