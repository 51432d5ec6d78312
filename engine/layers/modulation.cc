#include "layers/modulation.h"

#include <algorithm>

namespace flux {
namespace {

/// The most rows of a linear that have the bits each has alone on every device: images do not
/// depend on how many steps are computed at once.
constexpr int64_t kRowsAtOnce = 64;

}  // namespace

Modulation::Modulation(const Loader& load, int64_t features, int64_t chunks, size_t index)
    : linear_(load, features, chunks * features),
      features_(features),
      chunks_(chunks),
      index_(index) {}

void Modulation::compute(Context& ctx, const ConstTensor& rows, Adapters adapters,
                         const Tensor& out) const {
  const Workspace::Scope scope(ctx.workspace());
  const Shape flat{rows.size(0), chunks_ * features_};
  const Tensor rounded = ctx.workspace().allocate(flat, rows.dtype());
  for (int64_t begin = 0; begin < rows.size(0); begin += kRowsAtOnce) {
    const int64_t end = std::min(rows.size(0), begin + kRowsAtOnce);
    linear_(ctx, rows.slice(0, begin, end), rounded.slice(0, begin, end), {}, adapters);
  }
  cast(ctx, rounded, out.reshape(flat));
}

ConstTensor Modulation::kept(Context& ctx, const Conditioning& conditioning) const {
  ConstTensor& all = conditioning.kept->at(index_);
  if (!all.defined()) {
    // It is kept once it is complete: memory may run out before.
    const Tensor computed =
        pooled_tensor(ctx, {conditioning.rows.size(0), chunks_, features_}, DType::kF32);
    compute(ctx, conditioning.rows, conditioning.adapters, computed);
    all = computed;
  }
  return all[conditioning.step];
}

std::vector<ConstTensor> Modulation::operator()(
    Context& ctx, std::span<const Conditioning* const> conditionings) const {
  std::vector<ConstTensor> result(conditionings.size());
  std::vector<size_t> together;  // of one weight: no adapter changes it
  for (size_t i = 0; i < conditionings.size(); ++i) {
    const Conditioning& one = *conditionings[i];
    if (one.kept != nullptr) {
      result[i] = kept(ctx, one);
    } else if (one.adapters.empty()) {
      together.push_back(i);
    } else {
      const Tensor computed = ctx.workspace().allocate({1, chunks_, features_}, DType::kF32);
      compute(ctx, one.row(), one.adapters, computed);
      result[i] = computed[0];
    }
  }
  if (together.empty()) return result;
  const auto count = std::ssize(together);
  const auto row_of = [&](int64_t i) {
    return conditionings[together[static_cast<size_t>(i)]]->row();
  };
  const Tensor computed = ctx.workspace().allocate({count, chunks_, features_}, DType::kF32);
  ConstTensor rows = row_of(0);
  if (count > 1) {
    const Tensor gathered = ctx.workspace().allocate({count, features_}, rows.dtype());
    for (int64_t i = 0; i < count; ++i) copy(ctx, row_of(i), gathered.slice(0, i, i + 1));
    rows = gathered;
  }
  compute(ctx, rows, {}, computed);
  for (int64_t i = 0; i < count; ++i) result[together[static_cast<size_t>(i)]] = computed[i];
  return result;
}

}  // namespace flux
