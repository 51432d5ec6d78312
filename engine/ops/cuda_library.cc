#include "ops/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "support/error.h"
#include "support/log.h"

namespace flux {
namespace {

constexpr const char* kName = "libflux_cuda.so";

/// Paths to try, nearest first; the bare name last, for the system's search path.
std::vector<std::string> candidates() {
  std::vector<std::string> paths;
  Dl_info self{};
  if (::dladdr(reinterpret_cast<const void*>(&cuda_library), &self) != 0 && self.dli_fname) {
    std::error_code ignored;
    // A program that was found on PATH is named without its directory.
    std::filesystem::path module = self.dli_fname;
    if (module.is_relative()) module = "/proc/self/exe";
    const auto directory = std::filesystem::canonical(module, ignored).parent_path();
    if (directory.empty()) return {kName};
    // As built: beside the module, or in lib. As installed: where programs and libflux.so find it,
    // two folders above the module that a server loads.
    for (const auto& place :
         {directory, directory.parent_path() / "lib", directory.parent_path().parent_path() / "lib",
          directory / FLUX_PRIVATE_FROM_PROGRAM, directory / FLUX_PRIVATE_FROM_LIBRARY,
          directory.parent_path().parent_path()}) {
      if (std::filesystem::exists(place / kName, ignored)) paths.push_back(place / kName);
    }
  }
  paths.emplace_back(kName);
  return paths;
}

template <typename Symbol>
Symbol* symbol(void* library, const std::string& path, const char* name) {
  auto* found = reinterpret_cast<Symbol*>(::dlsym(library, name));
  check(found != nullptr, ErrorCode::kUnsupported, "{}: has no {}; install the one of this build",
        path, name);
  return found;
}

CudaLibrary load() {
  const std::string path = candidates().front();
  // Never closed: CUDA's libraries do not survive it.
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* reason = ::dlerror();
    fail(ErrorCode::kUnsupported,
         "{} cannot be loaded ({}); install it and CUDA's libraries, or use the device cpu", kName,
         reason ? reason : "no reason given");
  }
  // Objects of the engine pass between the two: both must come from one build.
  const char* build = symbol<const char>(library, path, "flux_cuda_build");
  check(std::string_view(build) == FLUX_ENGINE_BUILD, ErrorCode::kUnsupported,
        "{}: is of build {}, this program of {}; install the one that was built with it", path,
        build, FLUX_ENGINE_BUILD);
  CudaLibrary loaded;
  symbol<void(CudaLibrary&)>(library, path, "flux_cuda_open")(loaded);
  return loaded;
}

/// The outcome of loading, kept so that it is tried once.
struct Attempt {
  Attempt() {
    try {
      library = load();
    } catch (const Error& error) {
      failure.emplace(error);
    }
  }
  CudaLibrary library;
  std::optional<Error> failure;
};

const Attempt& attempt() {
  static const Attempt made;
  return made;
}

}  // namespace

const CudaLibrary& cuda_library() {
  if (attempt().failure) throw Error(*attempt().failure);
  return attempt().library;
}

bool has_cuda() {
  static const bool has = [] {
    // Without a GPU and a driver nothing is loaded: CUDA's libraries take a tenth of a second.
    std::error_code ignored;
    const bool gpu = std::filesystem::exists("/dev/nvidia0", ignored);
    if (!gpu && ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) return false;
    if (!attempt().failure) return true;
    if (gpu) log_warning("the GPU is not used: {}", attempt().failure->what());
    return false;
  }();
  return has;
}

}  // namespace flux
