#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flux/error.h"
#include "flux/image_format.h"
#include "flux/log.h"
#include "flux/parts.h"
#include "flux/request.h"

/// Images of FLUX checkpoints, generated in this process: those of diffusers' pipelines. Functions
/// throw Error and nothing else, but for what a function of an Observer throws: that ends the call
/// and reaches the caller as it is.
namespace flux {

/// How a model computes.
struct ModelOptions {
  std::string dtype = "as stored";  // or f32, bf16: the pipeline's dtype, which decides the noise
  /// Of the products of the transformer and of T5: none, or fp8 (e4m3 with a scale for each row of
  /// weights and of activations). Devices without such products compute in the dtype with the
  /// weights' values, and warn.
  std::string quantization = "none";
  /// Of the transformer's attention: bf16 (that of the dtype, whichever it is), or fp8: queries,
  /// keys, values and their weights in e4m3. Devices without such products warn and compute in the
  /// dtype.
  std::string attention = "bf16";
  std::string device = "auto";  // or cpu, cuda, cuda:N; auto: the first GPU where there is one
  int threads = 0;  // CPU threads; 0: one for each physical core. No result depends on it
  /// Cap on GPU memory in bytes, 0: none. Parts that do not fit together are evicted and loaded
  /// again as needed, and large images are decoded in tiles.
  uint64_t gpu_memory = 0;
  PartOptions parts;  // that are elsewhere than in the source
};

/// Refuses what Model::open() refuses for any checkpoint: throws kInvalidArgument, and kUnsupported
/// for a device that cannot be used here.
void check_options(const ModelOptions& options);

/// FluxPipeline's `latents` of one image: packed, [image tokens, channels]. Copies share the
/// values, which never change.
class Latents {
 public:
  /// Of no image: no tokens.
  Latents() = default;
  /// Reads the latents of all images in tensor 'latents' of a safetensors file: [images, image
  /// tokens, channels], of a floating point dtype. Throws kNotFound and kInvalidArgument.
  static std::vector<Latents> read(const std::filesystem::path& file);
  /// Writes such a file. Throws kInvalidArgument for images of different sizes or none,
  /// kUnavailable when the file cannot be written.
  static void write(const std::filesystem::path& file, std::span<const Latents> images);

  int64_t tokens() const;
  int64_t channels() const;

 private:
  friend class Model;
  struct Data;
  explicit Latents(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// The pixels of a PNG, JPEG or WebP file, for Request::image and Request::mask: upright as EXIF
/// says, without alpha. Throws kNotFound and kInvalidArgument.
InputImage read_image(const std::filesystem::path& file);

/// What the file of an image says of its making.
struct ImageTexts;

/// One finished image.
struct Image {
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;  // height x width x 3: RGB, row by row
  size_t row = 0;               // index of the request that asked for it
  /// That request with every default filled in. The seed is this image's own; it is absent where
  /// the loop started from given latents.
  Request request;
  /// The encoders that cut a prompt, or the negative one: "", "clip" (which takes 77 tokens), "t5"
  /// or "clip,t5".
  std::string truncated_by;
  Latents latents;  // as the denoise loop ended
  std::shared_ptr<const ImageTexts> texts;

  /// The bytes of a file, of request.quality where the format has one. It says how to make the
  /// image again, in PNG's tEXt or in EXIF. Throws kInternal when the format's library refuses.
  std::string encode(ImageFormat format) const;
  /// Writes a file in the format of its name's ending (to a device such as /dev/stdout: PNG). It
  /// appears under its name when it is complete. Throws kInvalidArgument for another ending,
  /// kUnavailable when it cannot be written.
  void write(const std::filesystem::path& file) const;
};

/// How an image would look if it were finished now.
struct Preview {
  size_t image = 0;  // index of the image in the call's result
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> pixels;  // height x width x 3: RGB, row by row

  /// Writes a file as Image::write() does, of the default quality and without texts.
  void write(const std::filesystem::path& file) const;
};

/// The listener of a call. Each function may be empty; all are called on the caller's thread.
struct Observer {
  /// What begins now: "loading dit_transformer", "encoding the prompt".
  std::function<void(std::string_view phase)> on_phase;
  /// Before the first denoising step and after each: steps done, and steps in all. The images of a
  /// call share a step.
  std::function<void(int done, int total)> on_step;
  /// Each image still on its way, after every `preview_every` steps (0: never). A preview has half
  /// the image's height and width. The images do not depend on it.
  std::function<void(const Preview& preview)> on_preview;
  int preview_every = 0;
  /// Each image when it is decoded, in the order of the result.
  std::function<void(const Image& image)> on_image;
  /// Asked again and again; true ends the call with kCancelled.
  std::function<bool()> cancelled;
};

/// What a call made.
struct Result {
  std::vector<Image> images;  // request by request
  double encode_seconds = 0;  // of the prompts and images
  double denoise_seconds = 0;
  double decode_seconds = 0;
  /// The names of tensors of adapters that change nothing of this model, in alphabetical order.
  std::vector<std::string> lora_unused;
};

/// A checkpoint that generates. It can be moved, not copied. Calls from several threads take turns.
class Model {
 public:
  /// Opens `source`: a diffusers FLUX checkpoint, a model repository made from one, or a file of
  /// weights (safetensors, GGUF). Reads headers only. Throws what check_options() throws, kNotFound
  /// for a missing part and kInvalidArgument for one that cannot be used.
  static Model open(const std::filesystem::path& source, const ModelOptions& options = {});

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  /// The request with every default filled in, a random seed too. Throws kInvalidArgument naming
  /// the value and what is allowed.
  Request resolve(const Request& request) const;

  /// Reads what the adapters of a request change, before it costs more: generate() does so, too.
  /// Warns of tensors that change nothing here. Throws kNotFound for a file that is not there,
  /// kInvalidArgument for one that is no adapter, or of another model.
  void open_adapters(const Request& request);

  /// Loads all weights now, not on their first use. Throws kUnavailable when memory is too small,
  /// kInvalidArgument for a damaged file, kCancelled.
  void load(const Observer& observer = {});

  /// Generates the images of all requests. Requests may differ in every value and do not influence
  /// one another: an image has the bytes that it has alone. `latents`: none, or one for each image
  /// of the call, in order, to start from in place of its seed's noise; not with Request::image.
  /// Throws what resolve() and load() throw, and kInvalidArgument for latents that do not fit.
  Result generate(std::span<const Request> requests, const Observer& observer = {},
                  std::span<const Latents> latents = {});

  std::string name() const;          // of the checkpoint, for people
  std::string dtype() const;         // f32 or bf16
  std::string quantization() const;  // none or fp8
  std::string attention() const;     // bf16 or fp8
  std::string device() const;        // cpu or cuda:N
  int threads() const;

 private:
  struct Parts;
  explicit Model(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace flux
