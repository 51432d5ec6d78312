#pragma once

#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <span>

#include "runtime/memory_pool.h"
#include "triton/agreement.h"
#include "triton/model_settings.h"
#include "triton/request.h"

namespace flux::triton {

class InstanceState;

/// Base of what a model keeps for each of its instances.
class InstanceData {
 public:
  virtual ~InstanceData() = default;
  /// Lets go of what depends on the model's weights, which leave.
  virtual void drop_states() {}
};

/// One of the models, loaded on one device. Immutable and shared by its instances there.
class ServedModel {
 public:
  explicit ServedModel(const ModelSettings& settings) : settings_(settings) {}
  virtual ~ServedModel() = default;

  /// Answers every request, in any order.
  virtual void execute(InstanceState& instance,
                       std::span<const std::unique_ptr<Request>> requests) const = 0;

  /// The pool that its contexts share (see MemoryPool); null: each has one of its own.
  virtual std::shared_ptr<MemoryPool> shared_memory() const { return nullptr; }
  /// The state of a new instance; may be null.
  virtual std::unique_ptr<InstanceData> make_instance_data() const { return nullptr; }

  /// Throws kUnavailable, saying why, when a request could not be answered now.
  virtual void check_ready() const {}

  const ModelSettings& settings() const { return settings_; }

  /// Called by an instance when it begins, and before it ends.
  void enter(InstanceState& instance) const;
  void leave(InstanceState& instance) const;

 protected:
  /// To be called before anything is loaded. Throws as check_config() and Agreement.
  void accept_config(const ModelIo& io);
  const Metrics& metrics() const { return *settings_.metrics; }
  /// Lets go of what instances keep that depends on the model's weights. None of them computes.
  void drop_states() const;
  /// Answers a request with an error, which also goes to the log with the request's id. This is the
  /// one place that tells a deadline, which ends work in the same way, from a client that
  /// cancelled.
  void refuse(Instance* instance, Request& request, const std::exception& error,
              uint64_t start_ns) const noexcept;
  void refuse(Instance* instance, Request& request, const std::exception_ptr& error,
              uint64_t start_ns) const noexcept;

 private:
  ModelSettings settings_;
  std::unique_ptr<const Agreement> agreement_;
  mutable std::mutex mutex_;
  mutable std::set<InstanceState*> instances_;
};

/// Reports one execution to the server's statistics. `rows` is its batch size.
void report_batch(Instance* instance, int64_t rows, uint64_t start_ns, uint64_t compute_start_ns,
                  uint64_t compute_end_ns);

}  // namespace flux::triton
