#include "triton/stage_model.h"

#include <algorithm>
#include <optional>

#include "ops/registry.h"
#include "pipeline/weight_layouts.h"
#include "support/error.h"
#include "support/log.h"
#include "triton/cancel_scope.h"
#include "triton/options.h"

namespace flux::triton {
namespace {

void check_still_wanted(const Request& request) {
  check(!request.deadline_passed(), ErrorCode::kUnavailable,
        "the request's timeout passed before the stage began");
  check(!request.stopped(), ErrorCode::kCancelled, "cancelled before the stage began");
}

/// The one place where a stage waits for its GPU: whoever gets an answer may read it at once.
/// Where all callers take a handover, the host waits for `nearly_done` only.
void end(Context& ctx, std::span<Job> jobs, const Fence* nearly_done) {
  const bool early =
      nearly_done != nullptr && std::all_of(jobs.begin(), jobs.end(), [](const Job& job) {
        return !job.error && job.request->can_hand_over();
      });
  std::shared_ptr<const Fence> done;
  for (Job& job : jobs) {
    job.attempt([&](Request& request) {
      if (!early) return request.finish_outputs();
      if (done == nullptr) done = make_fence(ctx);
      nearly_done->wait();
      request.hand_over(done);
    });
  }
}

/// After a failure: a request must not be answered while a GPU still works on its tensors. Where
/// memory ran out, unused memory is given back, so that other models can go on.
void let_go(Context& ctx, bool with_memory) {
  try {
    finish(ctx);
    if (!with_memory) return;
    ctx.workspace().release();
    ctx.memory().release();
  } catch (const std::exception& error) {
    log_warning("after a failed request: {}", error.what());
  }
}

/// A context for packing weights while a model loads.
Context loading_context(const ModelSettings& settings) {
  Backend& backend = backend_for(settings.device);
  backend.require(settings.precision());
  return Context(backend, static_cast<int>(options().threads));
}

}  // namespace

bool Job::ran_out_of_memory() const {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const Error& known) {
    return known.code() == ErrorCode::kUnavailable && !request->stopped();
  } catch (...) {
    return false;
  }
  return false;
}

void StageModel::execute(InstanceState& instance,
                         std::span<const std::unique_ptr<Request>> requests) const {
  Execution execution;
  const size_t at_once = computes_together() ? requests.size() : 1;
  for (size_t i = 0; i < requests.size(); i += at_once) {
    answer(instance, requests.subspan(i, at_once), execution);
  }
  if (execution.rows == 0) return;
  report_batch(instance.handle(), execution.rows, execution.start, execution.start, execution.last);
}

std::shared_ptr<const Fence> StageModel::run_together(InstanceState& instance,
                                                      std::span<Job> jobs) const {
  for (Job& job : jobs) job.attempt([&](Request& request) { run(instance, request); });
  return nullptr;
}

void StageModel::answer(InstanceState& instance, std::span<const std::unique_ptr<Request>> requests,
                        Execution& execution) const {
  Context& ctx = instance.context();
  std::vector<Job> jobs;
  for (const auto& request : requests) {
    jobs.push_back({request.get(), {}});
    jobs.back().attempt([&](Request& read) {
      read.read(ctx);
      check_still_wanted(read);
    });
  }
  const CancelScope scope(ctx, [&jobs] {
    return std::all_of(jobs.begin(), jobs.end(),
                       [](const Job& job) { return job.error || job.request->stopped(); });
  });
  const uint64_t begin = compute(instance, jobs);
  execution.last = now_ns();
  metrics().add(Measure::kStageSeconds, static_cast<double>(execution.last - begin) * 1e-9);
  for (const Job& job : jobs) {
    if (job.error) {
      refuse(instance.handle(), *job.request, job.error, execution.start);
      continue;
    }
    count(*job.request, execution.rows == 0);
    execution.rows += job.request->rows();
    job.request->send(instance.handle(), execution.start, begin, execution.last);
  }
}

uint64_t StageModel::compute(InstanceState& instance, std::span<Job> jobs) const {
  std::optional<CpuTurn> turn;
  if (settings().device.is_cpu()) turn.emplace();
  const uint64_t begin = now_ns();
  const std::shared_ptr<const Fence> nearly_done = run_together(instance, jobs);
  end(instance.context(), jobs, nearly_done.get());
  const auto any = [&](const auto& is) { return std::any_of(jobs.begin(), jobs.end(), is); };
  if (any([](const Job& job) { return job.error != nullptr; })) {
    let_go(instance.context(), any([](const Job& job) { return job.ran_out_of_memory(); }));
  }
  return begin;
}

void StageModel::count(const Request& request, bool first_of_batch) const {
  metrics().add(Measure::kStageRows, static_cast<double>(request.rows()));
  metrics().add(Measure::kBytesCopied, static_cast<double>(request.copied_bytes()));
  if (first_of_batch) metrics().add(Measure::kStageBatches, 1);
}

DiffusersLayout layout_of(const ModelSettings& settings) {
  return DiffusersLayout(settings.directory);
}

void load_weights(const ModelSettings& settings, Component component,
                  const std::function<void(const Loader&)>& make) {
  Context ctx = loading_context(settings);
  const NamedWeights weights =
      named_weights(component, open_place(component, layout_of(settings).place(component)), true);
  make(Loader(ctx, *weights.store, settings.precision()));
}

}  // namespace flux::triton
