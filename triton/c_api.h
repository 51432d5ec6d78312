#pragma once

#include <cstddef>
#include <cstdint>

/// The part of Triton's C interface that the backend uses: names, values and signatures of
/// TRITONBACKEND 1.19 and TRITONSERVER 1.34 (release 24.10), unchanged in later releases. Nothing
/// of Triton is linked: the functions are looked up in the running server when the backend loads,
/// so that one binary fits servers whatever their library is called and however it was loaded.
///
/// A request of a backend and one of the server's own interface are the same object, though no
/// header says so: there is no other way to read a request's priority.
namespace flux::triton {

// Opaque objects of the server.
struct Allocator;
struct ServerBackend;
struct BackendRequest;
struct BackendResponse;
struct Input;
struct Instance;
struct Label;
struct Message;
struct Metric;
struct MetricFamily;
struct Model;
struct NestedRequest;
struct NestedResponse;
struct Output;
struct Server;
struct ServerError;
struct Trace;

enum class DataType : int {
  kInvalid,
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFp16,
  kFp32,
  kFp64,
  kBytes,
  kBf16
};
enum class MemoryType : int { kCpu, kCpuPinned, kGpu };
enum class ParameterType : int { kString, kInt, kBool, kDouble, kBytes };
enum class InstanceKind : int { kAuto, kCpu, kGpu, kModel };
enum class ServerLogLevel : int { kInfo, kWarn, kError, kVerbose };
enum class ServerErrorCode : int {
  kUnknown,
  kInternal,
  kNotFound,
  kInvalidArg,
  kUnavailable,
  kUnsupported,
  kAlreadyExists,
  kCancelled
};
enum class MetricKind : int { kCounter, kGauge, kHistogram };

inline constexpr uint32_t kReleaseAll = 1;
inline constexpr uint32_t kResponseFinal = 1;

using AllocateFn = ServerError* (*)(Allocator*, const char* tensor, size_t bytes, MemoryType wanted,
                                    int64_t wanted_id, void* user, void** buffer,
                                    void** buffer_user, MemoryType* actual, int64_t* actual_id);
using ReleaseBufferFn = ServerError* (*)(Allocator*, void* buffer, void* buffer_user, size_t bytes,
                                         MemoryType, int64_t id);
using StartFn = ServerError* (*)(Allocator*, void* user);
using ReleaseRequestFn = void (*)(NestedRequest*, uint32_t flags, void* user);
using ResponseFn = void (*)(NestedResponse*, uint32_t flags, void* user);

/// Every function used: F(return type, full name, arguments).
#define FLUX_TRITON_FUNCTIONS(F)                                                                   \
  F(ServerError*, TRITONSERVER_ApiVersion, (uint32_t*, uint32_t*))                                 \
  F(const char*, TRITONSERVER_DataTypeString, (DataType))                                          \
  F(uint32_t, TRITONSERVER_DataTypeByteSize, (DataType))                                           \
  F(const char*, TRITONSERVER_MemoryTypeString, (MemoryType))                                      \
  F(const char*, TRITONSERVER_ParameterTypeString, (ParameterType))                                \
  F(ServerError*, TRITONSERVER_ErrorNew, (ServerErrorCode, const char*))                           \
  F(void, TRITONSERVER_ErrorDelete, (ServerError*))                                                \
  F(ServerErrorCode, TRITONSERVER_ErrorCode, (ServerError*))                                       \
  F(const char*, TRITONSERVER_ErrorCodeString, (ServerError*))                                     \
  F(const char*, TRITONSERVER_ErrorMessage, (ServerError*))                                        \
  F(ServerError*, TRITONSERVER_LogMessage, (ServerLogLevel, const char*, int, const char*))        \
  F(ServerError*, TRITONSERVER_MessageSerializeToJson, (Message*, const char**, size_t*))          \
  F(ServerError*, TRITONSERVER_MessageDelete, (Message*))                                          \
  F(ServerError*, TRITONSERVER_InferenceRequestNew,                                                \
    (NestedRequest**, Server*, const char*, int64_t))                                              \
  F(ServerError*, TRITONSERVER_InferenceRequestDelete, (NestedRequest*))                           \
  F(ServerError*, TRITONSERVER_InferenceRequestCancel, (NestedRequest*))                           \
  F(ServerError*, TRITONSERVER_InferenceRequestSetId, (NestedRequest*, const char*))               \
  F(ServerError*, TRITONSERVER_InferenceRequestSetTimeoutMicroseconds, (NestedRequest*, uint64_t)) \
  F(ServerError*, TRITONSERVER_InferenceRequestSetStringParameter,                                 \
    (NestedRequest*, const char*, const char*))                                                    \
  F(ServerError*, TRITONSERVER_InferenceRequestSetIntParameter,                                    \
    (NestedRequest*, const char*, int64_t))                                                        \
  F(ServerError*, TRITONSERVER_InferenceRequestAddInput,                                           \
    (NestedRequest*, const char*, DataType, const int64_t*, uint64_t))                             \
  F(ServerError*, TRITONSERVER_InferenceRequestAppendInputData,                                    \
    (NestedRequest*, const char*, const void*, size_t, MemoryType, int64_t))                       \
  F(ServerError*, TRITONSERVER_InferenceRequestSetReleaseCallback,                                 \
    (NestedRequest*, ReleaseRequestFn, void*))                                                     \
  F(ServerError*, TRITONSERVER_InferenceRequestSetResponseCallback,                                \
    (NestedRequest*, Allocator*, void*, ResponseFn, void*))                                        \
  F(ServerError*, TRITONSERVER_ServerModelIsReady, (Server*, const char*, int64_t, bool*))         \
  F(ServerError*, TRITONSERVER_ServerInferAsync, (Server*, NestedRequest*, Trace*))                \
  F(ServerError*, TRITONSERVER_InferenceTraceSpawnChildTrace, (Trace*, Trace**))                   \
  F(ServerError*, TRITONSERVER_InferenceTraceDelete, (Trace*))                                     \
  F(ServerError*, TRITONSERVER_ResponseAllocatorNew,                                               \
    (Allocator**, AllocateFn, ReleaseBufferFn, StartFn))                                           \
  F(ServerError*, TRITONSERVER_ResponseAllocatorDelete, (Allocator*))                              \
  F(ServerError*, TRITONSERVER_InferenceResponseError, (NestedResponse*))                          \
  F(ServerError*, TRITONSERVER_InferenceResponseDelete, (NestedResponse*))                         \
  F(ServerError*, TRITONSERVER_InferenceResponseOutputCount, (NestedResponse*, uint32_t*))         \
  F(ServerError*, TRITONSERVER_InferenceResponseOutput,                                            \
    (NestedResponse*, uint32_t, const char**, DataType*, const int64_t**, uint64_t*, const void**, \
     size_t*, MemoryType*, int64_t*, void**))                                                      \
  F(ServerError*, TRITONSERVER_InferenceResponseParameterCount, (NestedResponse*, uint32_t*))      \
  F(ServerError*, TRITONSERVER_InferenceResponseParameter,                                         \
    (NestedResponse*, uint32_t, const char**, ParameterType*, const void**))                       \
  F(ServerError*, TRITONSERVER_MetricFamilyNew,                                                    \
    (MetricFamily**, MetricKind, const char*, const char*))                                        \
  F(ServerError*, TRITONSERVER_MetricFamilyDelete, (MetricFamily*))                                \
  F(ServerError*, TRITONSERVER_MetricNew, (Metric**, MetricFamily*, const Label**, uint64_t))      \
  F(ServerError*, TRITONSERVER_MetricDelete, (Metric*))                                            \
  F(ServerError*, TRITONSERVER_MetricIncrement, (Metric*, double))                                 \
  F(ServerError*, TRITONSERVER_MetricSet, (Metric*, double))                                       \
  F(Label*, TRITONSERVER_ParameterNew, (const char*, ParameterType, const void*))                  \
  F(void, TRITONSERVER_ParameterDelete, (Label*))                                                  \
  F(ServerError*, TRITONBACKEND_ApiVersion, (uint32_t*, uint32_t*))                                \
  F(ServerError*, TRITONBACKEND_BackendConfig, (ServerBackend*, Message**))                        \
  F(ServerError*, TRITONBACKEND_ModelName, (Model*, const char**))                                 \
  F(ServerError*, TRITONBACKEND_ModelVersion, (Model*, uint64_t*))                                 \
  F(ServerError*, TRITONBACKEND_ModelRepository, (Model*, int*, const char**))                     \
  F(ServerError*, TRITONBACKEND_ModelConfig, (Model*, uint32_t, Message**))                        \
  F(ServerError*, TRITONBACKEND_ModelServer, (Model*, Server**))                                   \
  F(ServerError*, TRITONBACKEND_ModelState, (Model*, void**))                                      \
  F(ServerError*, TRITONBACKEND_ModelSetState, (Model*, void*))                                    \
  F(ServerError*, TRITONBACKEND_ModelInstanceName, (Instance*, const char**))                      \
  F(ServerError*, TRITONBACKEND_ModelInstanceKind, (Instance*, InstanceKind*))                     \
  F(ServerError*, TRITONBACKEND_ModelInstanceDeviceId, (Instance*, int32_t*))                      \
  F(ServerError*, TRITONBACKEND_ModelInstanceModel, (Instance*, Model**))                          \
  F(ServerError*, TRITONBACKEND_ModelInstanceState, (Instance*, void**))                           \
  F(ServerError*, TRITONBACKEND_ModelInstanceSetState, (Instance*, void*))                         \
  F(ServerError*, TRITONBACKEND_RequestId, (BackendRequest*, const char**))                        \
  F(ServerError*, TRITONBACKEND_RequestInputCount, (BackendRequest*, uint32_t*))                   \
  F(ServerError*, TRITONBACKEND_RequestInputByIndex, (BackendRequest*, uint32_t, Input**))         \
  F(ServerError*, TRITONBACKEND_RequestOutputCount, (BackendRequest*, uint32_t*))                  \
  F(ServerError*, TRITONBACKEND_RequestOutputName, (BackendRequest*, uint32_t, const char**))      \
  F(ServerError*, TRITONBACKEND_RequestParameterCount, (BackendRequest*, uint32_t*))               \
  F(ServerError*, TRITONBACKEND_RequestParameter,                                                  \
    (BackendRequest*, uint32_t, const char**, ParameterType*, const void**))                       \
  F(ServerError*, TRITONBACKEND_InferenceRequestTimeoutMicroseconds, (BackendRequest*, uint64_t*)) \
  F(ServerError*, TRITONSERVER_InferenceRequestPriorityUInt64, (BackendRequest*, uint64_t*))       \
  F(ServerError*, TRITONBACKEND_RequestIsCancelled, (BackendRequest*, bool*))                      \
  F(ServerError*, TRITONBACKEND_RequestTrace, (BackendRequest*, Trace**))                          \
  F(ServerError*, TRITONBACKEND_RequestRelease, (BackendRequest*, uint32_t))                       \
  F(ServerError*, TRITONBACKEND_InputProperties,                                                   \
    (Input*, const char**, DataType*, const int64_t**, uint32_t*, uint64_t*, uint32_t*))           \
  F(ServerError*, TRITONBACKEND_InputBuffer,                                                       \
    (Input*, uint32_t, const void**, uint64_t*, MemoryType*, int64_t*))                            \
  F(ServerError*, TRITONBACKEND_ResponseNew, (BackendResponse**, BackendRequest*))                 \
  F(ServerError*, TRITONBACKEND_ResponseDelete, (BackendResponse*))                                \
  F(ServerError*, TRITONBACKEND_ResponseOutput,                                                    \
    (BackendResponse*, Output**, const char*, DataType, const int64_t*, uint32_t))                 \
  F(ServerError*, TRITONBACKEND_OutputBuffer, (Output*, void**, uint64_t, MemoryType*, int64_t*))  \
  F(ServerError*, TRITONBACKEND_ResponseSetBoolParameter, (BackendResponse*, const char*, bool))   \
  F(ServerError*, TRITONBACKEND_ResponseSetIntParameter, (BackendResponse*, const char*, int64_t)) \
  F(ServerError*, TRITONBACKEND_ResponseSetDoubleParameter,                                        \
    (BackendResponse*, const char*, double))                                                       \
  F(ServerError*, TRITONBACKEND_ResponseSetStringParameter,                                        \
    (BackendResponse*, const char*, const char*))                                                  \
  F(ServerError*, TRITONBACKEND_ResponseSend, (BackendResponse*, uint32_t, ServerError*))          \
  F(ServerError*, TRITONBACKEND_ModelInstanceReportStatistics,                                     \
    (Instance*, BackendRequest*, bool, uint64_t, uint64_t, uint64_t, uint64_t))                    \
  F(ServerError*, TRITONBACKEND_ModelInstanceReportBatchStatistics,                                \
    (Instance*, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t))

/// Pointers to the server's functions, one member each.
struct Api {
#define FLUX_TRITON_MEMBER(Return, Name, Arguments) Return(*Name) Arguments = nullptr;
  FLUX_TRITON_FUNCTIONS(FLUX_TRITON_MEMBER)
#undef FLUX_TRITON_MEMBER
};

/// The functions of the server this process runs. load_api() must have succeeded.
const Api& api();

/// Looks up every function, and checks that the versions and enumeration values are those written
/// here. Throws kUnsupported, naming the function or value that does not fit. Idempotent and
/// thread-safe.
void load_api();

}  // namespace flux::triton
