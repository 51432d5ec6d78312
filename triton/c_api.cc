#include "triton/c_api.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <mutex>
#include <string>

#include "support/error.h"

namespace flux::triton {
namespace {

constexpr uint32_t kMajor = 1;
constexpr uint32_t kServerMinor = 34;
constexpr uint32_t kBackendMinor = 19;

Api& mutable_api() {
  static Api instance;
  return instance;
}

/// A handle of the server's library, whose file name may carry a hash; null when no loaded library
/// has such a name.
void* find_server_library() {
  void* handle = nullptr;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* found) {
        if (std::strstr(info->dlpi_name, "libtritonserver") == nullptr) return 0;
        *static_cast<void**>(found) = dlopen(info->dlpi_name, RTLD_NOLOAD | RTLD_NOW);
        return 1;
      },
      &handle);
  return handle;
}

void* find_symbol(const char* name) {
  if (void* symbol = dlsym(RTLD_DEFAULT, name)) return symbol;
  // Some hosts, Triton's Python binding among them, load the server outside the global scope.
  static void* const library = find_server_library();
  return library == nullptr ? nullptr : dlsym(library, name);
}

void check_version(const char* what, ServerError* (*read)(uint32_t*, uint32_t*), uint32_t minor) {
  uint32_t found_major = 0;
  uint32_t found_minor = 0;
  check(read(&found_major, &found_minor) == nullptr, ErrorCode::kUnsupported,
        "this server does not tell its {} version", what);
  check(found_major == kMajor && found_minor >= minor, ErrorCode::kUnsupported,
        "this server has {} version {}.{}, expected {}.{} or a later {}.x (Triton 24.10 or later)",
        what, found_major, found_minor, kMajor, minor, kMajor);
}

void check_text(const char* what, const char* found, const char* expected) {
  check(found != nullptr && std::string(found) == expected, ErrorCode::kUnsupported,
        "this server's interface is another one: {} is '{}', expected '{}'", what,
        found == nullptr ? "null" : found, expected);
}

/// The values of the enumerations are compiled in: this proves that they mean the same here.
void check_values(const Api& table) {
  check_text("data type 14", table.TRITONSERVER_DataTypeString(DataType::kBf16), "BF16");
  check_text("data type 9", table.TRITONSERVER_DataTypeString(DataType::kInt64), "INT64");
  check(table.TRITONSERVER_DataTypeByteSize(DataType::kFp32) == 4, ErrorCode::kUnsupported,
        "this server's interface is another one: FP32 has not 4 bytes");
  check_text("memory type 2", table.TRITONSERVER_MemoryTypeString(MemoryType::kGpu), "GPU");
  check_text("parameter type 3", table.TRITONSERVER_ParameterTypeString(ParameterType::kDouble),
             "DOUBLE");
  ServerError* error = table.TRITONSERVER_ErrorNew(ServerErrorCode::kUnavailable, "probe");
  const std::string code = table.TRITONSERVER_ErrorCodeString(error);
  table.TRITONSERVER_ErrorDelete(error);
  check_text("error code 4", code.c_str(), "Unavailable");
}

}  // namespace

const Api& api() { return mutable_api(); }

void load_api() {
  static std::once_flag once;
  std::call_once(once, [] {
    Api table;
#define FLUX_TRITON_FIND(Return, Name, Arguments)                         \
  table.Name = reinterpret_cast<Return(*) Arguments>(find_symbol(#Name)); \
  check(table.Name != nullptr, ErrorCode::kUnsupported,                   \
        "this server has no function " #Name ": Triton 24.10 or later is needed");
    FLUX_TRITON_FUNCTIONS(FLUX_TRITON_FIND)
#undef FLUX_TRITON_FIND
    check_version("TRITONSERVER", table.TRITONSERVER_ApiVersion, kServerMinor);
    check_version("TRITONBACKEND", table.TRITONBACKEND_ApiVersion, kBackendMinor);
    check_values(table);
    mutable_api() = table;
  });
}

}  // namespace flux::triton
