#include "triton/stage_model.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>

#include "pipeline/stage_results.h"
#include "support/error.h"
#include "support/utf8.h"
#include "triton/cancel_scope.h"
#include "triton/errors.h"
#include "triton/known_parameters.h"
#include "triton/memory.h"
#include "triton/options.h"
#include "triton/stage_adapters.h"

namespace flux::triton {
namespace {

void check_still_wanted(const Request& request) {
  check(!request.deadline_passed(), ErrorCode::kUnavailable,
        "the request's timeout passed before the stage began");
  check(!request.stopped(), ErrorCode::kCancelled, "cancelled before the stage began");
}

/// Texts cannot be too large for a stage: what it makes of them is the weights' fault. Outputs that
/// stay on a GPU are those of calls by `bls`, which checks what comes of them.
void check_results(const std::string& model, const Request& request) {
  const bool of_text = request.has_input("prompt");
  for (const auto& [name, values] : request.outputs()) {
    check_result(model, name, values, of_text ? ErrorCode::kInternal : ErrorCode::kInvalidArgument);
  }
}

/// The one place where a stage waits for its GPU: whoever gets an answer may read it at once.
/// Where all callers take a handover, the host waits for `nearly_done` only.
void end(const std::string& model, Context& ctx, std::span<Job> jobs, const Fence* nearly_done) {
  const bool early =
      nearly_done != nullptr && std::all_of(jobs.begin(), jobs.end(), [](const Job& job) {
        return !job.error && job.request->can_hand_over();
      });
  std::shared_ptr<const Fence> done;
  for (Job& job : jobs) {
    job.attempt([&](Request& request) {
      if (!early) {
        request.finish_outputs();
        return check_results(model, request);
      }
      if (done == nullptr) done = make_fence(ctx);
      nearly_done->wait();
      request.hand_over(done);
    });
  }
}

/// After a failure: a request must not be answered while a GPU still works on its tensors. Where
/// memory ran out, unused memory is given back, so that other models can go on.
void let_go(Context& ctx, bool with_memory) {
  log_and_drop(guard([&] { with_memory ? release_memory(ctx) : finish(ctx); }),
               "after a failed request");
}

/// Whether nobody waits for the jobs.
bool all_have_ended(std::span<const Job> jobs) {
  return std::all_of(jobs.begin(), jobs.end(),
                     [](const Job& job) { return job.error || job.request->stopped(); });
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

void StageModel::check_parameters(const Request& request) const {
  const std::span<const std::string_view> offered = request_parameters();
  std::vector<std::string_view> known(offered.begin(), offered.end());
  if (takes_adapters()) known.emplace_back(kLoraParameter);
  const auto unknown = unknown_parameter(request, known);
  if (!unknown) return;
  fail(ErrorCode::kInvalidArgument, "parameter {} is not known: {} takes {}", excerpt(*unknown),
       settings().name,
       offered.empty() ? "no parameters" : fmt::format("{}", fmt::join(offered, ", ")));
}

void StageModel::answer(InstanceState& instance, std::span<const std::unique_ptr<Request>> requests,
                        Execution& execution) const {
  Context& ctx = instance.context();
  std::vector<Job> jobs;
  for (const auto& request : requests) {
    jobs.push_back({request.get(), {}});
    jobs.back().attempt([&](Request& read) {
      read.read(ctx);
      check_parameters(read);
      check_still_wanted(read);
    });
  }
  const CancelScope scope(ctx, [&jobs] { return all_have_ended(jobs); });
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
  const std::optional<WeightResidency::Member::Use> weights = use_weights(jobs);
  std::optional<CpuTurn> turn;
  if (settings().device.is_cpu()) turn.emplace();
  const uint64_t begin = now_ns();
  const std::shared_ptr<const Fence> nearly_done = run_together(instance, jobs);
  end(settings().name, instance.context(), jobs, nearly_done.get());
  const auto any = [&](const auto& is) { return std::any_of(jobs.begin(), jobs.end(), is); };
  if (any([](const Job& job) { return job.error != nullptr; })) {
    let_go(instance.context(), any([](const Job& job) { return job.ran_out_of_memory(); }));
  }
  return begin;
}

std::optional<WeightResidency::Member::Use> StageModel::use_weights(std::span<Job> jobs) const {
  const bool any = std::any_of(jobs.begin(), jobs.end(), [](const Job& job) { return !job.error; });
  if (!any) return std::nullopt;
  try {
    return weights().use([&] { return all_have_ended(jobs); });
  } catch (...) {
    for (Job& job : jobs) job.attempt([](Request&) { throw; });
  }
  return std::nullopt;
}

Relief StageModel::others_leave() const {
  return {[this]() -> std::string {
    if (adapter_shelf().drop_unused() > 0) return "adapters that nobody computes with are dropped";
    const std::string other = weights().drop_another();
    return other.empty() ? "" : fmt::format("the weights of {} are dropped", other);
  }};
}

void StageModel::count(const Request& request, bool first_of_batch) const {
  metrics().add(Measure::kStageRows, static_cast<double>(request.rows()));
  metrics().add(Measure::kBytesCopied, static_cast<double>(request.copied_bytes()));
  if (first_of_batch) metrics().add(Measure::kStageBatches, 1);
}

DiffusersLayout layout_of(const ModelSettings& settings) {
  return DiffusersLayout(settings.directory);
}
}  // namespace flux::triton
