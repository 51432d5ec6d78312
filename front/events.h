#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "front/image_request.h"

/// What a client reads: the answer of a generation, and the events of its stream.
namespace flux::front {

/// What the answers and events of one generation have in common.
struct ImageWords {
  int64_t created = 0;  // seconds since 1970
  std::string size;     // "1024x1024", or "auto" where nothing tells
  std::string quality;
  std::string output_format;
  int images = 1;
  bool is_edit = false;
};

ImageWords words_of(const ImageRequest& request, const std::string& default_size, int64_t created);

/// An event as the stream has it: "event: NAME\ndata: JSON\n\n".
std::string server_event(std::string_view name, std::string_view json);

/// The body of the answer. `files` are the images, `seed` that of the first one.
std::string images_json(const ImageWords& words, const std::vector<std::string>& files,
                        int64_t seed);

/// image_generation.partial_image, or image_edit.partial_image; `preview` is a JPEG file of image
/// `image`, `index` counts the previews of an image.
std::string partial_image_event(const ImageWords& words, std::string_view preview, int image,
                                int index);
/// image_generation.completed, or image_edit.completed, of image `image`.
std::string completed_event(const ImageWords& words, std::string_view file, int image,
                            int64_t seed);
/// flux.progress.
std::string progress_event(int step, int total_steps, std::optional<double> estimated_seconds);
/// error; `json` is that of error_json().
std::string error_event(std::string_view json);
/// A comment, which keeps what is between server and client from taking the stream for dead.
std::string heartbeat();

/// Which of a generation's previews its client gets: `wanted` of them, evenly spaced.
class PreviewChoice {
 public:
  explicit PreviewChoice(int wanted) : wanted_(wanted) {}

  /// After how many steps each the pipeline makes previews, where `steps` are known; 0: never.
  int every(int steps) const;
  /// Whether the preview after `step` of `total_steps` is the next one for the client.
  bool takes(int step, int total_steps);
  /// How many have been taken.
  int taken() const { return taken_; }

 private:
  int wanted_;
  int taken_ = 0;
};

}  // namespace flux::front
