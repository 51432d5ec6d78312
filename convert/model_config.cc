#include "convert/model_config.h"

#include "convert/request_inputs.h"
#include "convert/templates.h"
#include "pipeline/request.h"
#include "support/error.h"
#include "tensor/format.h"

namespace flux {
namespace {

/// The parameter `device`.
std::string device_name(const ServingOptions& options) {
  if (options.device.is_cpu()) return "cpu";
  return options.every_gpu ? "cuda" : to_string(options.device);
}

/// The rest of instance_group after its kind.
std::string gpus(const ServingOptions& options) {
  if (options.device.is_cpu() || options.every_gpu) return "";
  return fmt::format(" gpus: [ {} ]", options.device.index);
}

/// Instances of "bls" for each instance of a stage: they only wait for stages. A request without
/// one waits in Triton's queue, first come, first served, whatever the policy of the steps; and
/// while all are busy, half a second too long at times (see the stages' templates).
constexpr int kPipelinesPerInstance = 32;
/// The same in Python, where each instance is a process.
constexpr int kPythonPipelinesPerInstance = 4;

std::string triton_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "TYPE_FP32";
    case DType::kBF16:
      return "TYPE_BF16";
    case DType::kF16:
      return "TYPE_FP16";
    default:
      fail(ErrorCode::kInternal, "dtype {} cannot be computed in", dtype);
  }
}

TemplateValues values_of(std::string_view model, const FluxConfig& config,
                         const ServingOptions& options) {
  TemplateValues values = {{"PREFIX", options.prefix},
                           {"MAX_BATCH_SIZE", std::to_string(options.max_batch_size)},
                           {"DTYPE_NAME", std::string(name_of(options.dtype))},
                           {"DEVICE", device_name(options)}};
  if (model == "bls" || model == kStreamName) {
    const int pipelines =
        options.in_python.contains(model) ? kPythonPipelinesPerInstance : kPipelinesPerInstance;
    values["REQUEST_INPUTS"] = request_inputs(config);
    values["INSTANCES"] = std::to_string(pipelines * options.instances);
    values["MAX_QUEUE_SIZE"] = std::to_string(options.max_queue_size);
    values["QUEUE_TIMEOUT"] = std::to_string(options.queue_timeout.count());
    values["DEFAULT_HEIGHT"] = std::to_string(options.default_size.height);
    values["DEFAULT_WIDTH"] = std::to_string(options.default_size.width);
    values["MAX_SIDE"] = std::to_string(options.max_side);
    return values;
  }
  values["DTYPE"] = triton_type(options.dtype);
  if (has_quantization(model) && !options.in_python.contains(model)) {
    values["QUANTIZATION"] = name_of(options.quantization);
  }
  if (has_attention_precision(model) && !options.in_python.contains(model)) {
    values["ATTENTION"] = name_of(options.attention);
  }
  values["INSTANCES"] = std::to_string(options.instances);
  values["KIND"] = options.device.is_cpu() ? "KIND_CPU" : "KIND_GPU";
  values["GPUS"] = gpus(options);
  if (model == "clip_encoder" || model == "dit_transformer") {
    values["POOLED_DIM"] = std::to_string(config.transformer.pooled_projection_dim);
  }
  if (model == "t5_encoder" || model == "dit_transformer") {
    values["JOINT_DIM"] = std::to_string(config.transformer.joint_attention_dim);
  }
  if (model == "t5_encoder") {
    values["SEQUENCE_LENGTH"] = std::to_string(checked_sequence_length(std::nullopt, config));
  }
  if (model == "dit_transformer") {
    values["IN_CHANNELS"] = std::to_string(config.transformer.in_channels);
    values["OUT_CHANNELS"] = std::to_string(config.transformer.out_channels);
  }
  if (model == "vae_decoder" || model == kImageEncoderName) {
    values["LATENT_CHANNELS"] = std::to_string(config.vae.latent_channels);
  }
  if (model == kImageEncoderName) {
    values["MOMENT_CHANNELS"] = std::to_string(2 * config.vae.latent_channels);
  }
  return values;
}

/// A model.py with the name of its model.
std::string with_name(std::string_view program, std::string_view kind, const std::string& model) {
  std::string text(program);
  const std::string line = fmt::format("\nNAME = \"{}\"\n", kind);
  const size_t at = text.find(line);
  check(at != text.npos, ErrorCode::kInternal, "model.py of {} has no line that names it", kind);
  return text.replace(at, line.size(), fmt::format("\nNAME = \"{}\"\n", model));
}

/// The config.pbtxt of a model. The native pipelines have most of theirs in common.
std::string config_text(std::string_view kind, const FluxConfig& config,
                        const ServingOptions& options) {
  const bool python = options.in_python.contains(kind);
  const Template& own =
      find_template(fmt::format("{}/{}.pbtxt.in", python ? "python" : "native", kind));
  const TemplateValues values = values_of(kind, config, options);
  if (python || (kind != "bls" && kind != kStreamName)) return fill_template(own, values);
  TemplateValues common = values;
  common.erase("PREFIX");
  const std::string pipeline = fill_template(find_template("native/pipeline.pbtxt.in"), common);
  return fill_template(own, {{"PREFIX", options.prefix}, {"PIPELINE", pipeline}});
}

}  // namespace

std::vector<ModelFile> make_model_files(const FluxConfig& config, const ServingOptions& options) {
  std::vector<ModelFile> files;
  for (const std::string_view kind : kModelNames) {
    const std::string model = fmt::format("{}{}", options.prefix, kind);
    files.push_back({model, "config.pbtxt", config_text(kind, config, options)});
    if (kind == kModelNames[0] && !options.in_python.contains(kind)) {
      files.push_back({model, fmt::format("{}/{}", kLorasDirectory, kLorasReadme),
                       std::string(find_template("native/loras.md").text)});
    }
    if (!options.in_python.contains(kind)) continue;
    const Template& program = find_template(fmt::format("python/{}.py", kind));
    files.push_back({model, "1/model.py", with_name(program.text, kind, model)});
    if (kind != "bls") continue;
    for (const char* part : {"bls_request.py", "bls_images.py"}) {
      const Template& source_file = find_template(fmt::format("python/{}", part));
      files.push_back({model, fmt::format("1/{}", part), std::string(source_file.text)});
    }
    files.push_back({model, "1/request_fields.json", request_fields_json(config)});
  }
  const auto add = [&](std::string_view kind) {
    files.push_back({fmt::format("{}{}", options.prefix, kind), "config.pbtxt",
                     config_text(kind, config, options)});
  };
  if (options.has_stream()) add(kStreamName);
  if (options.encodes_images()) add(kImageEncoderName);
  return files;
}

}  // namespace flux
