#include <algorithm>
#include <mutex>

#include "flux/flux.h"
#include "library/boundary.h"
#include "library/latents.h"
#include "library/session.h"
#include "pipeline/image_texts.h"
#include "pipeline/latents.h"
#include "pipeline/text_to_image.h"
#include "support/error.h"
#include "support/utf8.h"
#include "tensor/format.h"

namespace flux {
namespace {

std::vector<uint8_t> bytes_of(const ConstTensor& pixels) {
  const auto* data = pixels.data<uint8_t>();
  return {data, data + pixels.numel()};
}

/// The cancel check of a context while a call lasts.
class CancelScope {
 public:
  CancelScope(Context& ctx, const std::function<bool()>& cancelled) : ctx_(ctx) {
    ctx_.set_cancel_check(cancelled);
  }
  ~CancelScope() { ctx_.set_cancel_check(nullptr); }
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  Context& ctx_;
};

}  // namespace

struct Model::Parts {
  explicit Parts(Session opened) : session(std::move(opened)) {}

  ImageParams params_of(const Request& request) const {
    const FluxConfig& config = session.checkpoint->config();
    return validate(request, config, limits_for(config));
  }

  /// Loads the stages of every image, or those that only some requests need.
  void load(const Observer& observer, std::span<const StageKind> stages);
  std::vector<ImageParams> make_rows(std::span<const Request> requests,
                                     std::span<const Latents> latents) const;
  /// The latents of one row of a call.
  ConstTensor stack(const ImageParams& row, std::span<const Latents> latents, size_t first) const;
  Image make_image(const flux::GeneratedImage& made, const ImageParams& row) const;
  Result generate(const std::vector<ImageParams>& rows, const Observer& observer);
  std::vector<std::string> unused_tensors(const std::vector<ImageParams>& rows) const;

  Session session;
  std::mutex mutex;  // one call at a time
};

void Model::Parts::load(const Observer& observer, std::span<const StageKind> stages) {
  const auto cancelled = from_caller(observer.cancelled);
  const auto on_phase = from_caller(observer.on_phase);
  const CancelScope scope(session.stages->context(), cancelled);
  for (const StageKind stage : stages) {
    if (session.stages->weight_bytes(stage) > 0) continue;
    check(!cancelled || !cancelled(), ErrorCode::kCancelled, "cancelled before loading {}",
          name_of(stage));
    if (on_phase) on_phase(fmt::format("loading {}", name_of(stage)));
    session.stages->load(stage);
  }
}

ConstTensor Model::Parts::stack(const ImageParams& row, std::span<const Latents> latents,
                                size_t first) const {
  const LatentSize size = latent_size(session.checkpoint->config(), row.height, row.width);
  const Shape one = {size.tokens(), 4 * size.channels};
  const Tensor all =
      Tensor::allocate({row.num_images_per_prompt, one[0], one[1]}, session.options.dtype);
  for (int j = 0; j < row.num_images_per_prompt; ++j) {
    const Latents& given = latents[first + static_cast<size_t>(j)];
    check(given.tokens() == one[0] && given.channels() == one[1], ErrorCode::kInvalidArgument,
          "the latents of image {} are [{}, {}]: {} is expected, image tokens x channels of {}x{}",
          first + static_cast<size_t>(j), given.tokens(), given.channels(), one, row.width,
          row.height);
    copy_convert(given.data_->values, all[j]);
  }
  return all;
}

std::vector<ImageParams> Model::Parts::make_rows(std::span<const Request> requests,
                                                 std::span<const Latents> latents) const {
  std::vector<ImageParams> rows;
  size_t images = 0;
  for (const Request& request : requests) {
    rows.push_back(params_of(request));
    images += static_cast<size_t>(rows.back().num_images_per_prompt);
  }
  if (latents.empty()) return rows;
  check(latents.size() == images, ErrorCode::kInvalidArgument,
        "{} latents are given for {} images: one for each is expected", latents.size(), images);
  size_t first = 0;
  for (ImageParams& row : rows) {
    check(!row.image, ErrorCode::kInvalidArgument,
          "latents are given, and an image to start from, too: give one of them");
    row.latents = stack(row, latents, first);
    first += static_cast<size_t>(row.num_images_per_prompt);
  }
  return rows;
}

Image Model::Parts::make_image(const flux::GeneratedImage& made, const ImageParams& row) const {
  Image image;
  image.height = made.pixels.size(0);
  image.width = made.pixels.size(1);
  image.pixels = bytes_of(made.pixels);
  image.row = made.row;
  image.request = to_request(row);
  image.request.seed.reset();
  if (!row.latents.defined()) image.request.seed = static_cast<int64_t>(made.seed);
  image.truncated_by = made.truncated.names();
  image.latents = Latents(std::make_shared<const Latents::Data>(Latents::Data{made.latents}));
  // A file holds texts in UTF-8; the name of a directory may be none.
  const ImageOrigin origin{session.options.dtype, readable_message(session.checkpoint->name()),
                           "flux-triton " FLUX_VERSION};
  image.texts = std::make_shared<const ImageTexts>(describe_image(row, made, origin));
  return image;
}

std::vector<std::string> Model::Parts::unused_tensors(const std::vector<ImageParams>& rows) const {
  std::vector<AdapterChoice> chosen;
  for (const ImageParams& row : rows) {
    chosen.insert(chosen.end(), row.adapters.begin(), row.adapters.end());
  }
  return session.stages->unused_tensors(chosen);
}

Result Model::Parts::generate(const std::vector<ImageParams>& rows, const Observer& observer) {
  const Family& family = session.checkpoint->family();
  load(observer, family.stages);
  const bool images =
      std::any_of(rows.begin(), rows.end(), [](const ImageParams& row) { return bool(row.image); });
  if (images) load(observer, family.on_demand);
  const auto on_phase = from_caller(observer.on_phase);
  const auto on_image = from_caller(observer.on_image);
  const auto on_preview = from_caller(observer.on_preview);
  Result result;
  GenerateObserver watch;
  watch.on_step = from_caller(observer.on_step);
  watch.cancelled = from_caller(observer.cancelled);
  watch.preview_every = observer.preview_every;
  if (on_preview) {
    watch.on_preview = [&](size_t image, const ConstTensor& pixels) {
      on_preview({image, pixels.size(0), pixels.size(1), bytes_of(pixels)});
    };
  }
  watch.on_image = [&](const flux::GeneratedImage& made) {
    result.images.push_back(make_image(made, rows[made.row]));
    if (on_image) on_image(result.images.back());
  };
  const CancelScope scope(session.stages->context(), watch.cancelled);
  if (on_phase) on_phase("encoding the prompt");
  const GenerateResult made = family.generate(*session.stages, session.checkpoint->config(),
                                              session.options.dtype, rows, watch);
  result.encode_seconds = made.seconds.encode;
  result.denoise_seconds = made.seconds.denoise;
  result.decode_seconds = made.seconds.decode;
  result.lora_unused = unused_tensors(rows);
  return result;
}

Model::Model(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::open(const std::filesystem::path& source, const ModelOptions& options) {
  return with_named_exceptions(
      [&] { return Model(std::make_unique<Parts>(open_session(source, options))); });
}

Request Model::resolve(const Request& request) const {
  return with_named_exceptions([&] { return to_request(parts_->params_of(request)); });
}

void Model::load(const Observer& observer) {
  const std::scoped_lock lock(parts_->mutex);
  with_named_exceptions(
      [&] { parts_->load(observer, parts_->session.checkpoint->family().stages); });
}

void Model::open_adapters(const Request& request) {
  const std::scoped_lock lock(parts_->mutex);
  with_named_exceptions(
      [&] { parts_->session.stages->open_adapters(checked_adapters(request.adapters)); });
}

Result Model::generate(std::span<const Request> requests, const Observer& observer,
                       std::span<const Latents> latents) {
  const std::scoped_lock lock(parts_->mutex);
  return with_named_exceptions([&] {
    const std::vector<ImageParams> rows = parts_->make_rows(requests, latents);
    return rows.empty() ? Result() : parts_->generate(rows, observer);
  });
}

std::string Model::name() const { return parts_->session.checkpoint->name(); }
std::string Model::dtype() const { return std::string(name_of(parts_->session.options.dtype)); }
std::string Model::quantization() const {
  return std::string(name_of(parts_->session.options.quantization));
}
std::string Model::attention() const {
  return std::string(name_of(parts_->session.options.attention));
}
std::string Model::device() const { return to_string(parts_->session.options.device); }
int Model::threads() const { return parts_->session.options.threads; }

}  // namespace flux
