// Fuzzes the reader of adapters: whatever the names, shapes and numbers of a safetensors file, its
// changes lie in the tensors that it has, fit a model or not, and can be computed.
// Run by `make fuzz`; the corpus is tests/fuzz/corpus/adapters.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "adapters/adapter_file.h"
#include "adapters/delta.h"
#include "adapters/fit.h"
#include "fuzz/tokenizer_fuzz.h"

namespace {

constexpr int64_t kMostValues = 1 << 16;  // of a change that is computed

void check_change(const flux::Change& change) {
  const flux::Update& update = *change.update;
  const bool inside = change.begin >= 0 && change.begin < change.end && change.first >= 0 &&
                      change.first + change.rows() <= update.rows;
  const bool bounded = update.rank >= 0 && update.rank <= flux::kMaxAdapterRank;
  if (!inside || !bounded || change.module.empty() || update.tensors.empty()) std::abort();
}

/// Computes what a change adds, from weights that are zeros.
void compute(const flux::Adapter& adapter, const flux::Change& change) {
  const flux::Update& update = *change.update;
  const int64_t columns = std::max<int64_t>(update.columns, 1);
  if (update.rows * columns > kMostValues) return;
  const auto no_weights = [&](const flux::Change& part) {
    const flux::Shape shape =
        update.columns == 0 ? flux::Shape{part.end} : flux::Shape{part.end, columns};
    const flux::Tensor zeros = flux::Tensor::allocate(shape, flux::DType::kF32);
    std::fill_n(zeros.data<float>(), zeros.numel(), 0.0f);
    return flux::ConstTensor(zeros);
  };
  flux::fuzz::allow_errors([&] {  // values that are not finite
    const flux::Tensor trained = flux::trained_matrix(adapter, update, no_weights);
    const flux::Tensor values = flux::delta(change, trained);
    if (values.numel() != change.rows() * columns) std::abort();
    if (flux::has_low_rank(update)) {
      const auto tensors = flux::read_low_rank(change, flux::DType::kBF16, trained);
      const auto [down, up, gains, scale] = tensors;
      if (up.size(0) != change.rows() || up.size(1) != down.size(0)) std::abort();
      if (gains.defined() != update.is_dora() || down.size(1) != columns) std::abort();
    }
    if (flux::has_kronecker(update)) {
      const auto [outer, inner, scale] = flux::read_kronecker(update);
      if (outer.size(0) * inner.size(0) != update.rows) std::abort();
      if (outer.size(1) * inner.size(1) != columns) std::abort();
    }
  });
}

void fit(const flux::Adapter& adapter) {
  flux::FluxTransformerConfig config;
  const int64_t hidden = adapter.sizes[flux::Width::kHidden];
  config.attention_head_dim = std::max<int64_t>(hidden, 1);
  config.num_attention_heads = 1;
  config.num_layers = 1;
  const flux::Adapter fitted = flux::fit_adapter(adapter, {config});
  for (const flux::Change& change : fitted.changes) check_change(change);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  flux::fuzz::allow_errors([&] {
    const auto file = flux::SafetensorsFile::parse(data, size, "input");
    flux::is_adapter(*file);
    const flux::Adapter adapter = flux::read_adapter(*file);
    if (adapter.changes.empty()) std::abort();
    for (const flux::Change& change : adapter.changes) {
      check_change(change);
      compute(adapter, change);
    }
    flux::fuzz::allow_errors([&] { fit(adapter); });
  });
  return 0;
}
