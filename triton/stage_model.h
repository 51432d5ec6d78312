#pragma once

#include <exception>
#include <memory>
#include <optional>
#include <span>

#include "pipeline/layout.h"
#include "pipeline/memory_pressure.h"
#include "scheduling/weight_residency.h"
#include "triton/clock.h"
#include "triton/instance_state.h"
#include "triton/model_io.h"
#include "triton/served_model.h"

namespace flux::triton {

/// A request of an execution, with the error that it failed with, if it has.
struct Job {
  Request* request;
  std::exception_ptr error;

  /// Does a part of the work, unless an earlier part failed.
  template <typename Work>
  void attempt(Work&& work) {
    if (error) return;
    try {
      work(*request);
    } catch (...) {
      error = std::current_exception();
    }
  }

  /// Whether it failed where memory ran out. (One that was late is unavailable, too.)
  bool ran_out_of_memory() const;
};

/// A model of one stage: how it answers requests. A request that fails does not change the answers
/// to the others of its execution.
class StageModel : public ServedModel {
 public:
  using ServedModel::ServedModel;

  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const final;

 protected:
  /// The weights, which are on the device during run() and run_together().
  virtual WeightResidency::Member& weights() const = 0;
  /// The last relief of every run: adapters that nobody computes with leave, then the weights of
  /// another model on the device.
  Relief others_leave() const;
  /// Whether run_together() computes all requests of an execution at once. Otherwise they are
  /// computed one after another, and each is answered before the next one begins.
  virtual bool computes_together() const { return false; }
  /// The request parameters that the model takes, besides the server's own.
  virtual std::span<const std::string_view> request_parameters() const { return {}; }
  /// Whether it takes kLoraParameter, which is bls's own: errors do not offer it.
  virtual bool takes_adapters() const { return false; }
  /// Computes all rows of a request into its outputs.
  virtual void run(InstanceState& instance, Request& request) const = 0;
  /// Computes the jobs that have no error yet. Returns a fence shortly before the end of the
  /// computation, or null.
  virtual std::shared_ptr<const Fence> run_together(InstanceState& instance,
                                                    std::span<Job> jobs) const;

 private:
  struct Execution {
    uint64_t start = now_ns();
    uint64_t last = start;
    int64_t rows = 0;
  };

  /// Refuses a parameter that is not known, and might as well have been meant.
  void check_parameters(const Request& request) const;
  void answer(InstanceState& instance, std::span<const std::unique_ptr<Request>> requests,
              Execution& execution) const;
  /// Returns the time when it began: after waiting for the weights, and on a CPU for its turn. A
  /// GPU schedules the work of several models by itself.
  uint64_t compute(InstanceState& instance, std::span<Job> jobs) const;
  /// The weights, until the result ends; nothing where all jobs have failed. Jobs fail where
  /// they cannot come.
  std::optional<WeightResidency::Member::Use> use_weights(std::span<Job> jobs) const;
  /// Called before the answer goes out: a client that has the answer finds it counted.
  void count(const Request& request, bool first_of_batch) const;
};

/// The components of a served model, which are beside one another as in a checkpoint.
DiffusersLayout layout_of(const ModelSettings& settings);

}  // namespace flux::triton
