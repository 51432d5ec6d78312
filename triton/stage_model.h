#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <span>

#include "layers/loader.h"
#include "pipeline/components.h"
#include "pipeline/layout.h"
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
  /// Whether run_together() computes all requests of an execution at once. Otherwise they are
  /// computed one after another, and each is answered before the next one begins.
  virtual bool computes_together() const { return false; }
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

  void answer(InstanceState& instance, std::span<const std::unique_ptr<Request>> requests,
              Execution& execution) const;
  /// Returns the time when it began: on a CPU, after waiting for its turn. A GPU schedules the work
  /// of several models by itself.
  uint64_t compute(InstanceState& instance, std::span<Job> jobs) const;
  /// Called before the answer goes out: a client that has the answer finds it counted.
  void count(const Request& request, bool first_of_batch) const;
};

/// The components of a served model, which are beside one another as in a checkpoint.
DiffusersLayout layout_of(const ModelSettings& settings);

/// Calls `make` with a loader of the component's weights.
void load_weights(const ModelSettings& settings, Component component,
                  const std::function<void(const Loader&)>& make);

}  // namespace flux::triton
