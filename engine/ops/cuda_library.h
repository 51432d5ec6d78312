#pragma once

namespace flux {

class Backend;

/// The part of the engine that computes on NVIDIA GPUs. It is a shared object of its own
/// (libflux_cuda.so), so that one build runs on machines without GPU, driver or CUDA's libraries.
struct CudaLibrary {
  int devices = 0;  // at least 1
  /// The backend of a device, made on first use and kept for the life of the process. Throws
  /// kUnsupported for a GPU that this build has no kernels for.
  Backend& (*backend)(int index) = nullptr;
};

/// Loads the library on first use: from the directory of the module that this code is in, from lib
/// beside it, or from the system's search path. Throws kUnsupported, saying what is missing: the
/// library, another one that it needs, a driver that is new enough, or a GPU.
const CudaLibrary& cuda_library();

/// Whether there is a GPU that can be used. One that is there but cannot be used is logged, once.
bool has_cuda();

}  // namespace flux
