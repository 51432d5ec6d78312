#include "adapters/bind.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "adapters/delta.h"
#include "support/error.h"

namespace flux {
namespace {

/// Where a module's outputs are in the linear that has it.
struct ModulePlace {
  size_t linear;
  int64_t begin;
  int64_t in_features;
};
using ModulePlaces = std::map<std::string, ModulePlace, std::less<>>;

/// transformers' newer names of CLIP's modules lack what the older begin with.
std::string_view plain_name(std::string_view module) {
  constexpr std::string_view kOuter = "text_model.";
  if (module.starts_with(kOuter)) module.remove_prefix(kOuter.size());
  return module;
}

ModulePlaces index_of(std::span<const LinearPlace> places) {
  ModulePlaces index;
  for (size_t i = 0; i < places.size(); ++i) {
    int64_t begin = 0;
    for (const std::string& module : places[i].modules) {
      index.try_emplace(std::string(plain_name(module)),
                        ModulePlace{i, begin, places[i].in_features});
      begin += places[i].out_features;
    }
  }
  return index;
}

/// The matrices that updates were trained on, each read once.
class TrainedMatrices {
 public:
  TrainedMatrices(const Adapter& adapter, const TensorStore& base)
      : adapter_(adapter), base_(base) {}

  ConstTensor of(const Update& update) {
    if (!needs_weights(update)) return {};
    auto [found, is_new] = matrices_.try_emplace(&update);
    if (is_new) {
      found->second = trained_matrix(
          adapter_, update, [this](const Change& change) { return weight_of(change.module); });
    }
    return found->second;
  }

 private:
  ConstTensor weight_of(const std::string& module) const {
    for (const std::string& name : {module, std::string(plain_name(module))}) {
      if (const StoredTensor* stored = base_.find(name + ".weight")) {
        return decode(*stored, DType::kF32);
      }
    }
    fail(ErrorCode::kInvalidArgument, "{}: the model has no weight of '{}'", adapter_.file, module);
  }

  const Adapter& adapter_;
  const TensorStore& base_;
  std::map<const Update*, Tensor> matrices_;
};

LinearChange pack(Context& ctx, const Change& change, const ModulePlace& place,
                  TrainedMatrices& trained, DType dtype) {
  const int64_t begin = place.begin + change.begin;
  const Update& update = *change.update;
  if (change.parameter == Parameter::kBias) {
    return {pack_bias_change(ctx, delta(change), place.in_features, begin, dtype), 1.0f};
  }
  if (has_low_rank(update)) {
    const LowRankTensors tensors = read_low_rank(change, dtype, trained.of(update));
    return {pack_low_rank(ctx, tensors.down, tensors.up, tensors.gains, begin, dtype),
            tensors.scale};
  }
  if (has_kronecker(update)) {
    const KroneckerTensors tensors = read_kronecker(update);
    return {pack_kronecker(ctx, tensors.outer, tensors.inner, change.first, change.rows(), begin,
                           dtype),
            tensors.scale};
  }
  return {pack_low_rank(ctx, delta(change, trained.of(update)), {}, {}, begin, dtype), 1.0f};
}

}  // namespace

BoundAdapter bind_adapter(Context& ctx, const Adapter& adapter, AdapterModel model,
                          std::span<const LinearPlace> places, const TensorStore& base,
                          DType dtype) {
  const ModulePlaces index = index_of(places);
  TrainedMatrices trained(adapter, base);
  BoundAdapter bound;
  bound.weights.by_linear.resize(places.size());
  std::set<std::string> unused;
  for (const Change& change : adapter.changes) {
    if (change.model != model) continue;
    const auto found = index.find(plain_name(change.module));
    if (found == index.end()) {
      unused.insert(change.update->tensors.begin(), change.update->tensors.end());
      continue;
    }
    const ModulePlace& place = found->second;
    const bool fits =
        change.parameter == Parameter::kBias || change.update->columns == place.in_features;
    check(fits, ErrorCode::kInvalidArgument,
          "{}: '{}' takes {} inputs, and the model's has {}: such an adapter goes with an image as "
          "input, which is not supported",
          adapter.file, change.update->name, change.update->columns, place.in_features);
    bound.weights.by_linear[place.linear].push_back(pack(ctx, change, place, trained, dtype));
  }
  bound.unused.assign(unused.begin(), unused.end());
  return bound;
}

int64_t packed_bytes(const Adapter& adapter, AdapterModel model, DType dtype) {
  int64_t values = 0;
  for (const Change& change : adapter.changes) {
    const Update& update = *change.update;
    if (change.model != model) continue;
    if (update.columns == 0) {
      values += change.rows();
    } else if (std::holds_alternative<LowRank>(update.values) && !update.is_dora()) {
      values += update.rank * (change.rows() + update.columns);
    } else {
      values += change.rows() * update.columns;
    }
  }
  return values * static_cast<int64_t>(size_of(dtype));
}

}  // namespace flux
