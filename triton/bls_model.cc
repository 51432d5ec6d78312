#include "triton/bls_model.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "pipeline/image_start.h"
#include "pipeline/request_fields.h"
#include "pipeline/text_to_image.h"
#include "runtime/transfer.h"
#include "support/log.h"
#include "support/utf8.h"
#include "triton/bls_request.h"
#include "triton/errors.h"
#include "triton/image_inputs.h"
#include "triton/instance_state.h"
#include "triton/memory.h"
#include "triton/options.h"
#include "triton/served_weights.h"
#include "triton/step_stream.h"
#include "triton/step_turns.h"
#include "triton/triton_stages.h"
#include "triton/wire_type.h"

namespace flux::triton {
namespace {

/// When it ends, the context's memory is there for other instances: nothing that it began may use
/// it any more.
class SharesMemory {
 public:
  explicit SharesMemory(Context& ctx) : ctx_(ctx) {}
  ~SharesMemory() {
    log_and_drop(guard([&] {
                   finish(ctx_);
                   ctx_.memory().release();
                 }),
                 "waiting for a request's GPU work");
  }
  SharesMemory(const SharesMemory&) = delete;
  SharesMemory& operator=(const SharesMemory&) = delete;

 private:
  Context& ctx_;
};

}  // namespace

namespace {

/// What adapters' tensors change nothing, as JSON: names that a file makes up may have commas.
void tell_unused(Request& request, std::vector<std::string> names) {
  constexpr size_t kMost = 64;
  if (names.empty()) return;
  const size_t count = names.size();
  names.resize(std::min(count, kMost));
  for (std::string& name : names) name = excerpt(name);
  if (count > kMost) names.push_back(fmt::format("... and {} more", count - kMost));
  request.set_parameter("lora_unused", nlohmann::json(names).dump());
}

/// The name in the index. That of an older repository has none: then it is the models', and without
/// one the directory's: <repository>/bls/1.
std::string checkpoint_name(const ModelSettings& settings) {
  const ModelIndex index = read_model_index(DiffusersLayout(settings.directory).model_index());
  if (!index.name.empty()) return index.name;
  const std::string& prefix = settings.kind.prefix;
  return prefix.empty() ? settings.directory.parent_path().parent_path().filename().string()
                        : prefix.substr(0, prefix.size() - 1);
}

}  // namespace

BlsModel::BlsModel(const ModelSettings& settings)
    : ServedModel(settings),
      answers_(settings.kind.kind == kStreamName ? Answers::kEveryStep : Answers::kOnce),
      memory_(pipeline_memory(settings.device)),
      loras_(settings),
      family_(family_of(read_model_index(DiffusersLayout(settings.directory).model_index()))),
      config_(family_.load_config(config_files(DiffusersLayout(settings.directory)))) {
  accept_config(io());
  limits_.default_height = settings.integer_parameter("default_height");
  limits_.default_width = settings.integer_parameter("default_width");
  limits_.max_pixels_per_side =
      std::min(settings.integer_parameter("max_side"), options().max_side);
  origin_ = {settings.dtype, checkpoint_name(settings), "flux-triton " FLUX_VERSION};
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
  io.inputs.push_back({"lora", DataType::kBytes, {1}, true});
  for (const TensorSpec& spec : image_input_specs()) io.inputs.push_back(spec);
  io.outputs = {{"images", DataType::kUint8, {-1, -1, -1, 3}},
                {"encoded_images", DataType::kBytes, {-1}},
                {"seed", DataType::kInt64, {1}}};
  if (answers_ == Answers::kEveryStep) {
    io.decoupled = true;
    io.inputs.push_back({"preview_every", DataType::kInt32, {1}, true});
    io.inputs.push_back({"preview_size", DataType::kInt32, {1}, true});
    io.outputs.push_back({"step", DataType::kInt32, {1}});
    io.outputs.push_back({"total_steps", DataType::kInt32, {1}});
    io.outputs.push_back({"preview", DataType::kBytes, {-1}});
  }
  io.parameters = {"default_height", "default_width", "max_side"};
  io.shared_sizes = {{"pooled_projection_dim", config_.transformer.pooled_projection_dim},
                     {"joint_attention_dim", config_.transformer.joint_attention_dim},
                     {"in_channels", config_.transformer.in_channels},
                     {"out_channels", config_.transformer.out_channels}};
  io.may_warm_up = false;
  return io;
}

void BlsModel::check_defaults() const {
  flux::Request request;
  request.prompt = "anything";
  const Tensor pixel = Tensor::allocate({1, 1, 3}, DType::kU8);
  const PipelineKindInfo& kind = info_of(config_.kind);
  if (kind.image == InputUse::kRequired) request.image = to_input_image(pixel);
  if (kind.mask == InputUse::kRequired) request.mask = to_input_image(pixel);
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
    report_load();
    return rows;
  } catch (const std::exception& error) {
    refuse(instance, request, error, start_ns);
  }
  report_load();
  return 0;
}

StepScheduler::Job BlsModel::job_of(const Request& request, const BlsRequest& asked) const {
  StepScheduler::Job job;
  job.model = fmt::format("{}{}", settings().kind.prefix, name_of(StageKind::kDitTransformer));
  job.seconds_to_load = [transformer = job.model] { return seconds_to_load(transformer); };
  for (const ImageParams& row : asked.rows) {
    const int64_t tokens = image_tokens(config_, row) + row.max_sequence_length;
    job.tokens += tokens * row.num_images_per_prompt * (row.negative_prompt ? 2 : 1);
    job.steps = std::max(job.steps, row.denoising_steps());
  }
  job.priority = request.priority();
  job.owner = this;
  if (const auto left = request.remaining_us()) {
    job.deadline = job.arrived + std::chrono::microseconds(*left);
  }
  return job;
}

void BlsModel::report_load() const noexcept {
  const auto report = [&] {
    const StepScheduler::Load load = step_scheduler(settings().device).load(this);
    metrics().set(Measure::kStepsWaiting, static_cast<double>(load.waiting));
    metrics().set(Measure::kStepSeconds, load.seconds);
    if (load.median_error) metrics().set(Measure::kStepError, *load.median_error);
  };
  log_and_drop(guard(report), "reporting the load");
}

void BlsModel::generate(Context& ctx, Request& request) const {
  const SharesMemory shares(ctx);
  request.read(ctx);
  const BlsRequest asked = read_bls_request(request, config_, limits_, loras_, answers_);
  TritonStages stages(settings(), request, ctx);
  stages.open_adapters(asked.rows, config_);
  const StepScheduler::Job job = job_of(request, asked);
  stages.take_turns(step_scheduler(settings().device).enter(job));
  std::optional<StepStream> stream;
  if (answers_ == Answers::kEveryStep) {
    stream.emplace(settings(), config_, request, asked, stages).begin();
  }
  int done_before = 0;
  GenerateObserver observer;
  observer.cancelled = [&] { return request.stopped(); };
  observer.on_step = [&](int done, int total) {
    metrics().add(Measure::kSteps, done - done_before);
    done_before = done;
    report_load();
    if (stream) stream->on_step(done, total);
  };
  if (stream && stream->preview_every() > 0) {
    observer.preview_every = stream->preview_every();
    observer.on_predicted = [&](int done, std::span<const ConstTensor> predicted) {
      stream->on_predicted(done, predicted);
    };
  }
  try {
    const GenerateResult result =
        family_.generate(stages, config_, settings().dtype, asked.rows, observer);
    metrics().add(Measure::kImages, static_cast<double>(result.images.size()));
    if (stream) stream->end();
    tell_unused(request, stages.unused_tensors(asked.rows));
    write_outputs(request, asked, result);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) {
      metrics().add(Measure::kStepsCancelled, job.steps - done_before);
    }
    throw;
  }
}

void BlsModel::write_outputs(Request& request, const BlsRequest& asked,
                             const GenerateResult& result) const {
  Truncation truncated;
  for (const GeneratedImage& image : result.images) truncated |= image.truncated;
  if (truncated.any()) {
    request.set_flag("truncated");
    request.set_parameter("truncated_by", truncated.names());
  }
  write_bls_outputs(request, asked, result, origin_);
  request.finish_outputs();
  log(LogLevel::kInfo,
      fmt::format("{}: {}{} images, the first of {}x{}, {} steps, seed {}; seconds: "
                  "encode {:.3f}, denoise {:.3f}, decode {:.3f}",
                  settings().name, request.log_prefix(), result.images.size(), asked.rows[0].width,
                  asked.rows[0].height, asked.rows[0].num_inference_steps, asked.rows[0].seed,
                  result.seconds.encode, result.seconds.denoise, result.seconds.decode));
}

}  // namespace flux::triton
