#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "triton/metrics.h"
#include "triton/request.h"

namespace flux::triton {

/// What config.pbtxt and the server say about a model.
struct ModelSettings {
  std::string name;
  std::filesystem::path directory;  // <repository>/<model>/<version>
  nlohmann::json config;
  DType dtype = DType::kF32;
  Device device;  // of config.pbtxt, and then of the instances that share a ServedModel
  Server* server = nullptr;
  std::shared_ptr<const Metrics> metrics;

  /// A value of config.pbtxt's `parameters`. Throws kInvalidArgument when it is missing.
  std::string parameter(const char* key) const;
  int64_t integer_parameter(const char* key) const;
};

ModelSettings read_settings(Model* model);

class ServedModel;

/// Base of what a model keeps for each of its instances.
class InstanceData {
 public:
  virtual ~InstanceData() = default;
};

/// One instance of a model: what it does not share with the others.
class InstanceState {
 public:
  /// `handle`: the server's. Makes a first context.
  InstanceState(Instance* handle, std::shared_ptr<const ServedModel> model);

  Instance* handle() const { return handle_; }
  const ServedModel& model() const { return *model_; }
  /// Where instances compute; one each for threads that do so at once. Contexts are made when they
  /// are first asked for, from one thread at a time, and kept.
  Context& context(size_t index = 0);
  /// What ServedModel::make_instance_data() gave; may be null.
  InstanceData* data() { return data_.get(); }

 private:
  Instance* handle_;
  std::shared_ptr<const ServedModel> model_;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::unique_ptr<InstanceData> data_;
};

/// One of the five models, loaded on one device. Immutable and shared by its instances there.
class ServedModel {
 public:
  /// Loads the model that `settings` describes. Throws naming file, tensor, found and expected.
  static std::unique_ptr<const ServedModel> load(const ModelSettings& settings);

  explicit ServedModel(const ModelSettings& settings) : settings_(settings) {}
  virtual ~ServedModel() = default;

  /// Answers every request, in any order.
  virtual void execute(InstanceState& instance,
                       std::span<const std::unique_ptr<Request>> requests) const = 0;

  /// The state of a new instance; may be null.
  virtual std::unique_ptr<InstanceData> make_instance_data() const { return nullptr; }

  /// Throws kUnavailable, saying why, when a request could not be answered now.
  virtual void check_ready() const {}

  const ModelSettings& settings() const { return settings_; }

 protected:
  const Metrics& metrics() const { return *settings_.metrics; }
  /// Answers a request with an error, which also goes to the log with the request's id.
  void refuse(Instance* instance, Request& request, const std::exception& error,
              uint64_t start_ns) const noexcept;
  void refuse(Instance* instance, Request& request, const std::exception_ptr& error,
              uint64_t start_ns) const noexcept;

 private:
  ModelSettings settings_;
};

/// A model of the server: loads it for each device that has instances, once, and lets go of it with
/// the last one.
class ModelState {
 public:
  explicit ModelState(ModelSettings settings);

  const ModelSettings& settings() const { return settings_; }
  /// The model on a device. Throws as ServedModel::load().
  std::shared_ptr<const ServedModel> on(const Device& device);

 private:
  ModelSettings settings_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const ServedModel>> loaded_;  // by the device's name
};

/// Where an instance computes: on the GPU that the server gives it, or with KIND_CPU on the device
/// of config.pbtxt (`bls` has nothing to compute, but its latents are there). Throws kUnsupported
/// where the two disagree.
Device device_of(Instance* instance, const ModelSettings& settings);

/// Reports what one execution did. `rows` is its batch size.
void report_batch(Instance* instance, int64_t rows, uint64_t start_ns, uint64_t compute_start_ns,
                  uint64_t compute_end_ns);

}  // namespace flux::triton
