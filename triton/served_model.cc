#include "triton/served_model.h"

#include "support/log.h"
#include "triton/errors.h"
#include "triton/instance_state.h"

namespace flux::triton {

void ServedModel::accept_config(const ModelIo& io) {
  check_config(settings_, io);
  agreement_ = std::make_unique<const Agreement>(settings_, io);
}

void ServedModel::refuse(Instance* instance, Request& request, const std::exception& error,
                         uint64_t start_ns) const noexcept {
  const auto* known = dynamic_cast<const Error*>(&error);
  const ErrorCode code = known == nullptr ? ErrorCode::kInternal : known->code();
  if (code == ErrorCode::kCancelled && request.deadline_passed()) {
    const Error late(ErrorCode::kUnavailable,
                     fmt::format("the request's timeout passed: {}", error.what()));
    return refuse(instance, request, late, start_ns);
  }
  log_and_drop(guard([&] {
                 log(LogLevel::kWarning,
                     fmt::format("{}: {}{}: {}", settings_.name, request.log_prefix(),
                                 to_string(code), report_of(error)));
               }),
               "logging an error");
  request.send_error(instance, error, start_ns);
}

void ServedModel::refuse(Instance* instance, Request& request, const std::exception_ptr& error,
                         uint64_t start_ns) const noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    refuse(instance, request, known, start_ns);
  }
}

void ServedModel::enter(InstanceState& instance) const {
  const std::scoped_lock lock(mutex_);
  instances_.insert(&instance);
}

void ServedModel::leave(InstanceState& instance) const {
  const std::scoped_lock lock(mutex_);
  instances_.erase(&instance);
}

void ServedModel::drop_states() const {
  const std::scoped_lock lock(mutex_);
  for (InstanceState* instance : instances_) instance->drop_states();
}

void report_batch(Instance* instance, int64_t rows, uint64_t start_ns, uint64_t compute_start_ns,
                  uint64_t compute_end_ns) {
  log_and_drop(api().TRITONBACKEND_ModelInstanceReportBatchStatistics(
                   instance, static_cast<uint64_t>(rows), start_ns, compute_start_ns,
                   compute_end_ns, now_ns()),
               "reporting statistics");
}

}  // namespace flux::triton
