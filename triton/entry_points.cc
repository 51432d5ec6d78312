// The functions that Triton looks up in libtriton_flux.so.
#include <malloc.h>

#include <memory>
#include <string>

#include "support/log.h"
#include "triton/errors.h"
#include "triton/instance_state.h"
#include "triton/model_state.h"
#include "triton/options.h"

namespace flux::triton {
namespace {

void log_to_server(LogLevel level, std::string_view message) {
  const ServerLogLevel server_level = level == LogLevel::kInfo      ? ServerLogLevel::kInfo
                                      : level == LogLevel::kWarning ? ServerLogLevel::kWarn
                                                                    : ServerLogLevel::kError;
  ServerError* error =
      api().TRITONSERVER_LogMessage(server_level, "flux", 0, std::string(message).c_str());
  if (error != nullptr) api().TRITONSERVER_ErrorDelete(error);
}

template <typename State>
State* state_of(ServerError* (*read)(Model*, void**), Model* model) {
  void* state = nullptr;
  check_ok(read(model, &state));
  return static_cast<State*>(state);
}

/// Runs `work`, which loads a model. The server tells clients why it failed; where in the source an
/// internal error was thrown goes to the log.
template <typename Work>
ServerError* guard_load(Work&& work) noexcept {
  return guard([&] {
    try {
      work();
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kInternal) log(LogLevel::kError, report_of(error));
      throw;
    }
  });
}

InstanceState* instance_state(Instance* instance) {
  void* state = nullptr;
  check_ok(api().TRITONBACKEND_ModelInstanceState(instance, &state));
  return static_cast<InstanceState*>(state);
}

}  // namespace
}  // namespace flux::triton

using namespace flux::triton;  // NOLINT(google-build-using-namespace): C names below

extern "C" {

#define FLUX_EXPORT __attribute__((visibility("default")))

FLUX_EXPORT ServerError* TRITONBACKEND_Initialize(ServerBackend* backend) {
  try {
    load_api();
  } catch (const std::exception& e) {
    // Without the interface neither the server's log nor its errors can be relied on.
    fmt::print(stderr, "flux backend: {}\n", e.what());
    const auto make = api().TRITONSERVER_ErrorNew;
    if (make != nullptr) return make(ServerErrorCode::kUnsupported, e.what());
    std::abort();  // a server without TRITONSERVER_ErrorNew is none
  }
  return guard([&] {
    flux::set_log_sink(log_to_server);
    read_options(backend);
    create_metric_families();
    flux::log(flux::LogLevel::kInfo,
              fmt::format("flux backend: {} at once on the CPU, each with {} threads",
                          options().computations, options().threads));
  });
}

FLUX_EXPORT ServerError* TRITONBACKEND_Finalize(ServerBackend* /*backend*/) { return nullptr; }

FLUX_EXPORT ServerError* TRITONBACKEND_ModelInitialize(Model* model) {
  return guard_load([&] {
    auto state = std::make_unique<ModelState>(read_settings(model));
    check_ok(api().TRITONBACKEND_ModelSetState(model, state.get()));
    static_cast<void>(state.release());  // the server's model owns it now
  });
}

FLUX_EXPORT ServerError* TRITONBACKEND_ModelFinalize(Model* model) {
  // The server calls this after a failed load as well: then the state is null.
  return guard([&] {
    delete state_of<ModelState>(api().TRITONBACKEND_ModelState, model);
    ::malloc_trim(0);  // what a load left in the heaps
  });
}

FLUX_EXPORT ServerError* TRITONBACKEND_ModelInstanceInitialize(Instance* instance) {
  return guard_load([&] {
    Model* model = nullptr;
    check_ok(api().TRITONBACKEND_ModelInstanceModel(instance, &model));
    auto* served = state_of<ModelState>(api().TRITONBACKEND_ModelState, model);
    auto state = std::make_unique<InstanceState>(
        instance, served->on(device_of(instance, served->settings())));
    check_ok(api().TRITONBACKEND_ModelInstanceSetState(instance, state.get()));
    static_cast<void>(state.release());  // the server's instance owns it now
  });
}

FLUX_EXPORT ServerError* TRITONBACKEND_ModelInstanceFinalize(Instance* instance) {
  return guard([&] { delete instance_state(instance); });
}

/// Servers of release 25.12 and later call this when a client asks whether the model is ready.
FLUX_EXPORT ServerError* TRITONBACKEND_ModelInstanceReady(Instance* instance) {
  return guard([&] { instance_state(instance)->model().check_ready(); });
}

FLUX_EXPORT ServerError* TRITONBACKEND_ModelInstanceExecute(Instance* instance,
                                                            BackendRequest** requests,
                                                            uint32_t count) {
  // From here on every request is answered and released by its Request: no error is returned.
  std::vector<std::unique_ptr<Request>> batch;
  for (uint32_t i = 0; i < count; ++i) batch.push_back(std::make_unique<Request>(requests[i]));
  ServerError* error = guard([&] {
    InstanceState* state = instance_state(instance);
    const InFlightScope in_flight(*state->model().settings().metrics, batch.size());
    state->model().execute(*state, batch);
  });
  log_and_drop(error, "executing a batch");
  return nullptr;
}

}  // extern "C"
