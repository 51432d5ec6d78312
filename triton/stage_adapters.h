#pragma once

#include <span>
#include <string>
#include <vector>

#include "pipeline/adapter_shelf.h"
#include "triton/model_settings.h"
#include "triton/request.h"

namespace flux::triton {

/// The adapters of all models of the process, whatever they are served on: Options::lora_memory is
/// the budget.
AdapterShelf& adapter_shelf();

/// The request parameter by which bls gives a stage the adapters of all rows: numbers of adapters
/// that it has open, with scales, "17:0.8,23:-1". It is not for others.
inline constexpr const char* kLoraParameter = "lora";
std::string lora_parameter(std::span<const AdapterUse> adapters);

/// The adapters that a stage computes with. Each time that weights come or leave the model's
/// metrics tell it.
class StageAdapters {
 public:
  /// `settings` must outlive it.
  StageAdapters(const ModelSettings& settings, AdapterModel model);

  /// What a request's parameter names. Throws kInvalidArgument. A response to a request with one
  /// gets a flag of that name: a stage that does not know of adapters gives none.
  std::vector<AdapterUse> read(Request& request) const;
  /// AdapterShelf::Target::bind(); errors are in the client's words.
  std::vector<std::vector<AppliedAdapter>> bind(
      Context& ctx, const AdapterShelf::Target::Place& place,
      std::span<const std::vector<AdapterUse>> rows) const;

 private:
  mutable AdapterShelf::Target target_;
};

}  // namespace flux::triton
