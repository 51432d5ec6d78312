#include "triton/bls_model.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "pipeline/latents.h"
#include "pipeline/request_fields.h"
#include "pipeline/text_to_image.h"
#include "support/log.h"
#include "triton/bls_request.h"
#include "triton/errors.h"
#include "triton/instance_state.h"
#include "triton/options.h"
#include "triton/step_turns.h"
#include "triton/triton_stages.h"
#include "triton/wire_type.h"

namespace flux::triton {

BlsModel::BlsModel(const ModelSettings& settings)
    : ServedModel(settings),
      family_(family_of(read_model_index(DiffusersLayout(settings.directory).model_index()))),
      config_(family_.load_config(config_files(DiffusersLayout(settings.directory)))) {
  accept_config(io());
  limits_.default_height = settings.integer_parameter("default_height");
  limits_.default_width = settings.integer_parameter("default_width");
  limits_.max_pixels_per_side =
      std::min(settings.integer_parameter("max_side"), options().max_side);
  // <repository>/bls/1: the repository's name is that of the checkpoint, unless the models have
  // one.
  const std::string& prefix = settings.kind.prefix;
  origin_ = {settings.dtype,
             prefix.empty() ? settings.directory.parent_path().parent_path().filename().string()
                            : prefix.substr(0, prefix.size() - 1),
             "flux-triton " FLUX_VERSION};
  limits_.max_steps = options().max_steps;
  limits_.max_images_per_prompt = options().max_images;
  check_defaults();
}

ModelIo BlsModel::io() const {
  ModelIo io;
  for (const RequestField& field : request_fields()) {
    io.inputs.push_back(
        {std::string(field.name), wire_type(field), {1}, !default_in_words(field).empty()});
  }
  io.inputs.push_back({"output_format", DataType::kBytes, {1}, true});
  io.outputs = {{"images", DataType::kUint8, {-1, -1, -1, 3}},
                {"encoded_images", DataType::kBytes, {-1}},
                {"seed", DataType::kInt64, {1}}};
  io.parameters = {"default_height", "default_width", "max_side"};
  io.shared_sizes = {{"pooled_projection_dim", config_.transformer.pooled_projection_dim},
                     {"joint_attention_dim", config_.transformer.joint_attention_dim},
                     {"in_channels", config_.transformer.in_channels}};
  io.may_warm_up = false;
  return io;
}

void BlsModel::check_defaults() const {
  flux::Request request;
  request.prompt = "anything";
  try {
    validate(request, config_, limits_);
  } catch (const Error& e) {
    fail(e.code(),
         "model '{}': a request that leaves all to the defaults would be refused: {}; change "
         "config.pbtxt or --backend-config=flux,...",
         settings().name, e.what());
  }
}

void BlsModel::check_ready() const {
  for (const StageKind stage : family_.stages) {
    const std::string name = fmt::format("{}{}", settings().kind.prefix, name_of(stage));
    bool ready = false;
    check_ok(api().TRITONSERVER_ServerModelIsReady(settings().server, name.c_str(), -1, &ready));
    check(ready, ErrorCode::kUnavailable, "stage '{}' is not loaded", name);
  }
}

void BlsModel::execute(InstanceState& instance,
                       std::span<const std::unique_ptr<Request>> requests) const {
  const uint64_t start = now_ns();
  Instance* handle = instance.handle();
  std::atomic<int64_t> rows = 0;
  std::vector<std::thread> threads;
  for (size_t i = 1; i < requests.size(); ++i) {
    Request& request = *requests[i];
    try {
      Context& ctx = instance.context(i);
      threads.emplace_back([&] { rows += answer(handle, ctx, request, start); });
    } catch (const std::exception& error) {
      refuse(handle, request, error, start);
    }
  }
  rows += answer(handle, instance.context(), *requests[0], start);
  for (std::thread& thread : threads) thread.join();
  if (rows > 0) report_batch(handle, rows, start, start, now_ns());
}

int64_t BlsModel::answer(Instance* instance, Context& ctx, Request& request,
                         uint64_t start_ns) const noexcept {
  try {
    generate(ctx, request);
    const int64_t rows = request.rows();
    request.send(instance, start_ns, start_ns, now_ns());
    return rows;
  } catch (const std::exception& error) {
    refuse(instance, request, error, start_ns);
  }
  return 0;
}

StepScheduler::Job BlsModel::job_of(const Request& request, const BlsRequest& asked) const {
  StepScheduler::Job job;
  for (const ImageParams& row : asked.rows) {
    const int64_t tokens =
        latent_size(config_, row.height, row.width).tokens() + row.max_sequence_length;
    job.tokens += tokens * row.num_images_per_prompt * (row.negative_prompt ? 2 : 1);
    job.steps = std::max(job.steps, row.num_inference_steps);
  }
  if (const auto left = request.remaining_us()) {
    job.deadline = job.arrived + std::chrono::microseconds(*left);
  }
  return job;
}

void BlsModel::generate(Context& ctx, Request& request) const {
  request.read(ctx);
  const BlsRequest asked = read_bls_request(request, config_, limits_);
  TritonStages stages(settings(), request, ctx);
  stages.take_turns(step_scheduler(settings().device).enter(job_of(request, asked)));
  int done_before = 0;
  int total = 0;
  GenerateObserver observer;
  observer.cancelled = [&] { return request.stopped(); };
  observer.on_step = [&](int done, int all) {
    metrics().add(Measure::kSteps, done - done_before);
    done_before = done;
    total = all;
  };
  try {
    const GenerateResult result =
        family_.generate(stages, config_, settings().dtype, asked.rows, observer);
    metrics().add(Measure::kImages, static_cast<double>(result.images.size()));
    Truncation truncated;
    for (const GeneratedImage& image : result.images) truncated |= image.truncated;
    if (truncated.any()) {
      request.set_flag("truncated");
      request.set_parameter("truncated_by", truncated.names());
    }
    write_bls_outputs(request, asked, result, origin_);
    request.finish_outputs();
    log(LogLevel::kInfo,
        fmt::format("{}: request '{}': {} images, the first of {}x{}, {} steps, seed {}; seconds: "
                    "encode {:.3f}, denoise {:.3f}, decode {:.3f}",
                    settings().name, request.id(), result.images.size(), asked.rows[0].width,
                    asked.rows[0].height, asked.rows[0].num_inference_steps, asked.rows[0].seed,
                    result.seconds.encode, result.seconds.denoise, result.seconds.decode));
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) {
      metrics().add(Measure::kStepsCancelled, total - done_before);
    }
    throw;
  }
}

}  // namespace flux::triton
