#include "triton/triton_stages.h"

#include <algorithm>
#include <exception>

#include "support/error.h"
#include "tensor/format.h"
#include "triton/lora_directory.h"
#include "triton/stage_models.h"

namespace flux::triton {
namespace {

/// "[1,0.75,0.5]": nine digits give the same float when they are read.
std::string timesteps_text(std::span<const float> timesteps) {
  std::string text;
  for (const float timestep : timesteps) {
    text += fmt::format("{}{:.9g}", text.empty() ? "[" : ",", timestep);
  }
  return text + "]";
}

/// A stage of somebody else's may not know of adapters: an image without them would look like one
/// with them.
void check_takes_adapters(const NestedCall& call, std::span<const AdapterChoice> adapters) {
  check(adapters.empty() || call.flag(kLoraParameter), ErrorCode::kUnsupported,
        "lora is given, and stage '{}' took no notice of it: only native models compute with "
        "adapters; convert again with that stage native",
        call.model());
}

}  // namespace

void TritonStages::open_adapters(std::span<const ImageParams> rows, const FluxConfig& config) {
  for (const ImageParams& row : rows) {
    for (const AdapterChoice& choice : row.adapters) {
      try {
        adapters_.open({&choice, 1}, config);
      } catch (const Error& error) {
        throw lora_error(choice.file, error);
      }
    }
  }
}

std::vector<std::string> TritonStages::unused_tensors(std::span<const ImageParams> rows) const {
  std::vector<AdapterChoice> all;
  for (const ImageParams& row : rows) {
    all.insert(all.end(), row.adapters.begin(), row.adapters.end());
  }
  return adapters_.unused(all);
}

NestedCall& TritonStages::add_call(std::list<NestedCall>& calls, StageKind stage,
                                   std::span<const AdapterChoice> adapters) const {
  NestedCall& call = calls.emplace_back(server_, fmt::format("{}{}", prefix_, name_of(stage)),
                                        request_.id(), ctx_);
  if (const auto left = request_.remaining_us()) call.set_timeout(*left);
  if (!adapters.empty()) {
    call.set_parameter(kLoraParameter, lora_parameter(adapters_.find(adapters)));
    call.expect_refusal_of(kLoraParameter);
  }
  return call;
}

void TritonStages::start_all(std::list<NestedCall>& calls) const {
  for (NestedCall& call : calls) call.start(request_.spawn_trace());
}

void TritonStages::wait_all(std::list<NestedCall>& calls) const {
  std::exception_ptr first;
  for (NestedCall& call : calls) {
    try {
      call.wait([&] { return first != nullptr || stopped(); });
    } catch (...) {
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

std::vector<TextEmbeddings> TritonStages::encode(std::span<const TextInput> rows) {
  std::list<NestedCall> calls;
  std::vector<const NestedCall*> clip;
  std::vector<const NestedCall*> t5;
  for (const TextInput& row : rows) {
    NestedCall& clip_call = add_call(calls, StageKind::kClipEncoder, row.adapters);
    clip_call.add_string("prompt", row.prompt);
    clip.push_back(&clip_call);
    NestedCall& t5_call = add_call(calls, StageKind::kT5Encoder, row.adapters);
    t5_call.add_string("prompt", row.prompt_2);
    t5_call.add_integer("max_sequence_length", row.max_sequence_length);
    t5.push_back(&t5_call);
  }
  finish(ctx_);
  start_all(calls);
  wait_all(calls);
  std::vector<TextEmbeddings> result;
  for (size_t i = 0; i < rows.size(); ++i) {
    check_takes_adapters(*clip[i], rows[i].adapters);
    check_takes_adapters(*t5[i], rows[i].adapters);
    TextEmbeddings embeddings;
    // The transformer compares these kilobytes with those of other images before each step: on the
    // host they can be compared without waiting for its GPU.
    embeddings.pooled_prompt_embeds = to_host(ctx_, clip[i]->take_output("pooled_prompt_embeds"));
    embeddings.prompt_embeds = t5[i]->take_output("prompt_embeds");
    embeddings.truncated = {clip[i]->flag("truncated"), t5[i]->flag("truncated")};
    result.push_back(std::move(embeddings));
  }
  return result;
}

std::vector<Tensor> TritonStages::encode_image(const ConstTensor& image,
                                               std::span<const PosteriorDraw> draws) {
  std::list<NestedCall> calls;
  NestedCall& call = add_call(calls, StageKind::kVaeEncoder, {});
  call.add_input("image", image);
  start_all(calls);
  wait_all(calls);
  // The draws of all images of a row are made of one encoding.
  const ConstTensor moments = to_host(ctx_, call.take_output("moments"));
  check(moments.rank() == 3 && moments.size(0) % 2 == 0, ErrorCode::kInternal,
        "stage '{}' answered moments as {}, expected means and log variances", call.model(),
        moments);
  return draw_posterior(moments, draws);
}

std::optional<StepScheduler::Outlook> TritonStages::outlook() const {
  return turns_ == nullptr ? std::nullopt : std::optional(turns_->outlook());
}

void TritonStages::pause_turns() {
  if (turns_ != nullptr) turns_->pause();
}

std::vector<TransformerInput> TritonStages::joined(std::span<const TransformerInput> rows) const {
  std::vector<TransformerInput> result(rows.begin(), rows.end());
  const auto join = [&](const ConstTensor& first, const ConstTensor& second) {
    const int64_t middle = first.size(0);
    const int64_t end = middle + second.size(0);
    const Tensor both = pooled_tensor(ctx_, {end, first.size(1)}, first.dtype());
    copy(ctx_, first, both.slice(0, 0, middle));
    copy(ctx_, second, both.slice(0, middle, end));
    return both;
  };
  for (TransformerInput& row : result) {
    if (row.images.size() == 1) continue;
    check(row.images.size() == 2, ErrorCode::kInternal, "a row has {} groups of image tokens",
          row.images.size());
    const ImageTokens& image = row.images[0];
    const ImageTokens& reference = row.images[1];
    row.images = {{join(image.hidden_states, reference.hidden_states),
                   join(image.img_ids, reference.img_ids), image.noise_pred}};
  }
  return result;
}

void TritonStages::transformer(std::span<const TransformerInput> given) {
  if (turns_ != nullptr) turns_->next([&] { return stopped(); });
  const std::vector<TransformerInput> rows = joined(given);
  // The last answers showed whether the stage takes part in handovers. If it has been replaced
  // since by one that does not, that one read its inputs too early, and is asked again.
  std::shared_ptr<const Fence> ready = handing_over_ ? make_fence(ctx_) : nullptr;
  if (ready != nullptr && predict(rows, ready)) return;
  finish(ctx_);
  handing_over_ = predict(rows, nullptr);
}

bool TritonStages::predict(std::span<const TransformerInput> rows,
                           const std::shared_ptr<const Fence>& ready) {
  std::list<NestedCall> calls;
  for (const TransformerInput& row : rows) {
    NestedCall& call = add_call(calls, StageKind::kDitTransformer, row.chosen);
    const ImageTokens& image = row.images[0];
    const int64_t predicted = image.noise_pred.size(0);
    if (predicted < image.hidden_states.size(0)) call.set_parameter(kPredictedTokens, predicted);
    call.add_input("hidden_states", image.hidden_states);
    call.add_number("timestep", row.clock.timestep());
    if (row.guidance) call.add_number("guidance", *row.guidance);
    call.add_input("pooled_projections", row.pooled_projections);
    call.add_input("encoder_hidden_states", row.encoder_hidden_states);
    call.add_input("img_ids", image.img_ids);
    call.add_input("txt_ids", row.txt_ids);
    call.expect_output("noise_pred", image.noise_pred);
    if (ctx_.device().is_cpu()) continue;
    call.hand_over(image.noise_pred, ready);
    // On a GPU, modulations of all steps are computed at once: their weights are read once an
    // image.
    call.set_parameter("timesteps", timesteps_text(*row.clock.timesteps));
    call.set_parameter("step", static_cast<int64_t>(row.clock.step));
  }
  start_all(calls);
  wait_all(calls);
  size_t at = 0;
  for (const NestedCall& call : calls) check_takes_adapters(call, rows[at++].chosen);
  return std::all_of(calls.begin(), calls.end(),
                     [](const NestedCall& call) { return call.handed_over(); });
}

Tensor TritonStages::decode(const ConstTensor& latents) {
  turns_ = nullptr;
  std::list<NestedCall> calls;
  NestedCall& call = add_call(calls, StageKind::kVaeDecoder, {});
  call.add_input("latents", latents);
  finish(ctx_);  // the stage computes in a stream of its own and must not read too early
  start_all(calls);
  wait_all(calls);
  return call.take_output("image");
}

}  // namespace flux::triton
