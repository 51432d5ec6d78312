#include "front/events.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "support/base64.h"

namespace flux::front {
namespace {

using nlohmann::ordered_json;

/// Tokens of the transformer that the images were made of, a square of 16 pixels each. Nothing is
/// counted for the prompt: its length after the encoders is the same for all.
ordered_json usage_of(const ImageWords& words, int images) {
  int64_t width = 0;
  int64_t height = 0;
  const char* end = words.size.data() + words.size.size();
  const auto [middle, error] = std::from_chars(words.size.data(), end, width);
  if (error == std::errc() && middle != end) std::from_chars(middle + 1, end, height);
  const int64_t tokens = (width / 16) * (height / 16) * images;
  return {{"input_tokens", 0},
          {"input_tokens_details", {{"image_tokens", 0}, {"text_tokens", 0}}},
          {"output_tokens", tokens},
          {"total_tokens", tokens}};
}

/// The seed of an image: those of a request count up.
int64_t seed_of(int64_t first, size_t image) {
  return static_cast<int64_t>(static_cast<uint64_t>(first) + image);
}

/// The type of an event about an image.
std::string type_of(const ImageWords& words, std::string_view event) {
  return fmt::format("{}.{}", words.is_edit ? "image_edit" : "image_generation", event);
}

ordered_json image_event(const std::string& type, const ImageWords& words, std::string_view file,
                         std::string_view format, int image) {
  ordered_json event = {
      {"type", type},           {"b64_json", encode_base64(file)}, {"created_at", words.created},
      {"size", words.size},     {"quality", words.quality},        {"background", "opaque"},
      {"output_format", format}};
  // OpenAI's events do not tell images of one request apart.
  if (words.images > 1) event["image_index"] = image;
  return event;
}

}  // namespace

ImageWords words_of(const ImageRequest& request, const std::string& default_size, int64_t created) {
  const bool leaves_size = request.size == "auto" && !default_size.empty();
  return {created,         leaves_size ? default_size : request.size,
          request.quality, request.output_format,
          request.images,  request.is_edit};
}

std::string server_event(std::string_view name, std::string_view json) {
  return fmt::format("event: {}\ndata: {}\n\n", name, json);
}

std::string images_json(const ImageWords& words, const std::vector<std::string>& files,
                        int64_t seed) {
  ordered_json data = ordered_json::array();
  for (size_t i = 0; i < files.size(); ++i) {
    data.push_back({{"b64_json", encode_base64(files[i])}, {"seed", seed_of(seed, i)}});
  }
  return ordered_json{{"created", words.created},
                      {"data", std::move(data)},
                      {"background", "opaque"},
                      {"output_format", words.output_format},
                      {"quality", words.quality},
                      {"size", words.size},
                      {"usage", usage_of(words, static_cast<int>(files.size()))}}
      .dump();
}

std::string partial_image_event(const ImageWords& words, std::string_view preview, int image,
                                int index) {
  const std::string type = type_of(words, "partial_image");
  ordered_json event = image_event(type, words, preview, "jpeg", image);
  event["partial_image_index"] = index;
  return server_event(type, event.dump());
}

std::string completed_event(const ImageWords& words, std::string_view file, int image,
                            int64_t seed) {
  const std::string type = type_of(words, "completed");
  ordered_json event = image_event(type, words, file, words.output_format, image);
  event["seed"] = seed_of(seed, static_cast<size_t>(image));
  event["usage"] = usage_of(words, 1);
  return server_event(type, event.dump());
}

std::string progress_event(int step, int total_steps, std::optional<double> estimated_seconds) {
  constexpr const char* kType = "flux.progress";
  ordered_json event = {{"type", kType}, {"step", step}, {"total_steps", total_steps}};
  event["estimated_seconds"] =
      estimated_seconds ? ordered_json(*estimated_seconds) : ordered_json();
  return server_event(kType, event.dump());
}

std::string error_event(std::string_view json) { return server_event("error", json); }

std::string heartbeat() { return ": waiting\n\n"; }

int PreviewChoice::every(int steps) const {
  if (wanted_ == 0) return 0;
  return std::max(1, steps / (wanted_ + 1));
}

bool PreviewChoice::takes(int step, int total_steps) {
  if (taken_ == wanted_) return false;
  // The k-th of n is due after k/(n+1) of the steps.
  if (step * (wanted_ + 1) < (taken_ + 1) * total_steps) return false;
  ++taken_;
  return true;
}

}  // namespace flux::front
