#include "triton/step_stream.h"

#include <algorithm>
#include <utility>

#include "runtime/transfer.h"

namespace flux::triton {
namespace {

/// Writes `step` and `total_steps` of each row, as far as the client wants them. Answer: Request or
/// Response.
template <typename Answer>
void write_steps(Answer& answer, const Request& request, const BlsRequest& asked, int done) {
  const auto write = [&](const char* name, const auto& steps_of) {
    if (!request.wants_output(name)) return;
    const auto rows = static_cast<int64_t>(asked.rows.size());
    const Tensor output = answer.host_output(name, DType::kI32, {rows, 1});
    for (size_t row = 0; row < asked.rows.size(); ++row) {
      output.template data<int32_t>()[row] = steps_of(asked.rows[row]);
    }
  };
  write("step", [&](const ImageParams& row) { return std::min(done, row.denoising_steps()); });
  write("total_steps", [](const ImageParams& row) { return row.denoising_steps(); });
}

/// More than any row has.
constexpr int kAllSteps = 1 << 30;

}  // namespace

StepStream::StepStream(const ModelSettings& model, const FluxConfig& config, Request& request,
                       const BlsRequest& asked, TritonStages& stages)
    : request_(request), asked_(asked), stages_(stages) {
  if (request.wants_output("preview")) preview_every_ = asked.previews.every;
  if (preview_every_ > 0) previews_.emplace(model, config, request, asked);
}

void StepStream::begin() {
  const Outlook outlook = stages_.outlook();
  Response answer = request_.part(stages_.context());
  answer.set_parameter("queue_position", static_cast<int64_t>(outlook->ahead));
  send(answer, 0, outlook, {});
}

bool StepStream::has_preview(int done, int total) const {
  return preview_every_ > 0 && done > 0 && done < total && done % preview_every_ == 0;
}

void StepStream::on_step(int done, int total) {
  // The answers keep their order, and previews are never more than a step late.
  if (previews_) {
    if (!previews_->are_made()) stages_.pause_turns();
    previews_->wait();
  }
  if (done == 0 || done == total || has_preview(done, total)) return;
  Response answer = request_.part(stages_.context());
  send(answer, done, stages_.outlook(), {});
}

void StepStream::on_predicted(int done, std::span<const ConstTensor> predicted) {
  previews_->begin(predicted, make_fence(stages_.context()),
                   [this, done, outlook = stages_.outlook()](
                       Context& ctx, const std::vector<std::string>& files) {
                     Response answer = request_.part(ctx);
                     send(answer, done, outlook, files);
                   });
}

void StepStream::send(Response& answer, int done, const Outlook& outlook,
                      const std::vector<std::string>& previews) {
  write_steps(answer, request_, asked_, done);
  if (!previews.empty()) {
    answer.strings("preview", previews, static_cast<int64_t>(asked_.rows.size()));
  }
  if (outlook && outlook->seconds) answer.set_parameter("estimated_seconds", *outlook->seconds);
  answer.send_part();
}

void StepStream::end() { write_steps(request_, request_, asked_, kAllSteps); }

}  // namespace flux::triton
