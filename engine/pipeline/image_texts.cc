#include "pipeline/image_texts.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "support/utf8.h"

namespace flux {
namespace {

/// A value of the line of settings: quoted where its characters have a meaning there.
std::string setting(std::string_view name, const std::string& value) {
  const bool plain = value.find_first_of(",:\"\n") == value.npos;
  return fmt::format(", {}: {}", name, plain ? value : nlohmann::json(value).dump());
}

/// "style:0.8, detail:0.5": the files without folder and ending, and their scales.
std::string adapters(const ImageParams& row) {
  std::string text;
  for (const AdapterChoice& adapter : row.adapters) {
    text += fmt::format("{}{}:{}", text.empty() ? "" : ", ",
                        readable_message(std::filesystem::path(adapter.file).stem().string()),
                        adapter.scale);
  }
  return text;
}

/// The settings as AUTOMATIC1111's web UI writes them: the prompt, the negative prompt, a line of
/// settings by its names.
std::string parameters(const ImageParams& row, const GeneratedImage& image,
                       const ImageOrigin& origin) {
  std::string text = row.prompt + "\n";
  if (row.negative_prompt) text += fmt::format("Negative prompt: {}\n", *row.negative_prompt);
  text += fmt::format("Steps: {}, Sampler: Euler, CFG scale: {}, Distilled CFG Scale: {}",
                      row.num_inference_steps, row.true_cfg_scale, row.guidance_scale);
  if (!row.latents.defined()) text += fmt::format(", Seed: {}", image.seed);
  text += fmt::format(", Size: {}x{}", row.width, row.height);
  if (row.strength) text += fmt::format(", Denoising strength: {}", *row.strength);
  text += setting("Model", origin.checkpoint);
  if (row.prompt_2 != row.prompt) text += setting("Prompt 2", row.prompt_2);
  if (!row.adapters.empty()) text += setting("Adapters", adapters(row));
  return text + setting("Version", origin.software);
}

}  // namespace

ImageTexts describe_image(const ImageParams& row, const GeneratedImage& image,
                          const ImageOrigin& origin) {
  std::vector<ImageText> texts = {{"prompt", row.prompt}};
  if (row.prompt_2 != row.prompt) texts.push_back({"prompt_2", row.prompt_2});
  if (row.negative_prompt) {
    texts.push_back({"negative_prompt", *row.negative_prompt});
    texts.push_back({"true_cfg_scale", fmt::format("{}", row.true_cfg_scale)});
  }
  if (!row.latents.defined()) texts.push_back({"seed", fmt::format("{}", image.seed)});
  texts.push_back({"steps", fmt::format("{}", row.num_inference_steps)});
  if (row.strength) texts.push_back({"strength", fmt::format("{}", *row.strength)});
  texts.push_back({"guidance", fmt::format("{}", row.guidance_scale)});
  texts.push_back({"size", fmt::format("{}x{}", row.width, row.height)});
  texts.push_back({"max_sequence_length", fmt::format("{}", row.max_sequence_length)});
  if (!row.adapters.empty()) texts.push_back({"adapters", adapters(row)});
  texts.push_back({"dtype", std::string(name_of(origin.dtype))});
  texts.push_back({"checkpoint", origin.checkpoint});
  texts.push_back({"Software", origin.software});
  return {texts, parameters(row, image, origin)};
}

}  // namespace flux
