#include "triton/stage_adapters.h"

#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "support/error.h"
#include "support/json_file.h"
#include "triton/lora_directory.h"
#include "triton/options.h"

namespace flux::triton {
namespace {

/// The file that an error begins with; empty where it is about none.
std::filesystem::path file_in(const Error& error, std::span<const std::vector<AdapterUse>> rows) {
  const std::string_view said = error.what();
  for (const std::vector<AdapterUse>& row : rows) {
    for (const AdapterUse& use : row) {
      if (said.starts_with(use.adapter->file)) return use.adapter->file;
    }
  }
  return {};
}

/// "17:0.8" from `text` on; moves `text` behind it. Nothing where it is not that.
std::optional<std::pair<uint64_t, float>> take_use(std::string_view& text) {
  std::pair<uint64_t, float> use{};
  const char* end = text.data() + text.size();
  const auto number = std::from_chars(text.data(), end, use.first);
  if (number.ec != std::errc() || number.ptr == end || *number.ptr != ':') return std::nullopt;
  const auto scale = std::from_chars(number.ptr + 1, end, use.second);
  if (scale.ec != std::errc() || !std::isfinite(use.second)) return std::nullopt;
  if (scale.ptr != end && *scale.ptr != ',') return std::nullopt;
  text = {scale.ptr, static_cast<size_t>(end - scale.ptr)};
  if (!text.empty()) text.remove_prefix(1);
  return use;
}

}  // namespace

AdapterShelf& adapter_shelf() {
  static AdapterShelf shelf(options().lora_memory);
  return shelf;
}

std::string lora_parameter(std::span<const AdapterUse> adapters) {
  std::string text;
  for (const AdapterUse& use : adapters) {
    // Nine digits give the same float when they are read.
    text += fmt::format("{}{}:{:.9g}", text.empty() ? "" : ",", use.adapter->number, use.scale);
  }
  return text;
}

StageAdapters::StageAdapters(const ModelSettings& settings, AdapterModel model)
    : target_(adapter_shelf(), model,
              {.on_load = [&settings] { settings.metrics->add(Measure::kLoraLoads, 1); },
               .on_hit = [&settings] { settings.metrics->add(Measure::kLoraHits, 1); },
               .on_bytes =
                   [&settings](int64_t bytes) {
                     settings.metrics->set(Measure::kLoraBytes, static_cast<double>(bytes));
                   }}) {}

std::vector<AdapterUse> StageAdapters::read(Request& request) const {
  std::vector<AdapterUse> uses;
  const auto given = request.parameter(kLoraParameter);
  if (!given) return uses;
  const std::string text = given->is_string() ? given->get<std::string>() : "";
  constexpr size_t kMost = 64;
  std::string_view rest = text;
  do {
    const auto use = uses.size() < kMost ? take_use(rest) : std::nullopt;
    const auto adapter = use ? adapter_shelf().find(use->first) : nullptr;
    check(adapter != nullptr, ErrorCode::kInvalidArgument,
          "parameter lora is {}: must be numbers of adapters that bls has open, with scales; ask "
          "bls, which takes names",
          quoted(*given));
    uses.push_back({adapter, use->second});
  } while (!rest.empty());
  request.set_flag(kLoraParameter);
  return uses;
}

std::vector<std::vector<AppliedAdapter>> StageAdapters::bind(
    Context& ctx, const AdapterShelf::Target::Place& place,
    std::span<const std::vector<AdapterUse>> rows) const {
  try {
    return target_.bind(ctx, place, rows);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kCancelled) throw;
    throw lora_error(file_in(error, rows), error);
  }
}

}  // namespace flux::triton
