#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "ops/context.h"
#include "triton/metrics.h"
#include "triton/request.h"

namespace flux::triton {

/// What config.pbtxt and the server say about a model.
struct ModelSettings {
  std::string name;
  std::filesystem::path directory;  // <repository>/<model>/<version>
  nlohmann::json config;
  DType dtype = DType::kF32;
  Device device;
  Server* server = nullptr;

  /// A value of config.pbtxt's `parameters`. Throws kInvalidArgument when it is missing.
  std::string parameter(const char* key) const;
  int64_t integer_parameter(const char* key) const;
};

ModelSettings read_settings(Model* model);

/// One of the five models, loaded. Immutable and shared by its instances.
class ServedModel {
 public:
  /// Loads the model that `settings` describes. Throws naming file, tensor, found and expected.
  static std::unique_ptr<const ServedModel> load(const ModelSettings& settings);

  explicit ServedModel(const ModelSettings& settings)
      : settings_(settings), metrics_(settings.name) {}
  virtual ~ServedModel() = default;

  /// Answers every request, in any order. `ctx` belongs to the calling instance.
  virtual void execute(Instance* instance, Context& ctx,
                       std::span<const std::unique_ptr<Request>> requests) const = 0;

  /// Throws kUnavailable, saying why, when a request could not be answered now.
  virtual void check_ready() const {}

  const ModelSettings& settings() const { return settings_; }

 protected:
  const Metrics& metrics() const { return metrics_; }
  /// Answers a request with an error, which also goes to the log with the request's id.
  void refuse(Instance* instance, Request& request, const std::exception& error,
              uint64_t start_ns) const noexcept;

 private:
  ModelSettings settings_;
  Metrics metrics_;
};

/// Reports what one execution did. `rows` is its batch size.
void report_batch(Instance* instance, int64_t rows, uint64_t start_ns, uint64_t compute_start_ns,
                  uint64_t compute_end_ns);

}  // namespace flux::triton
