#include "ops/cuda/weight_terms.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "ops/cuda/kernels/changes.h"
#include "support/error.h"
#include "support/integer.h"

namespace flux::cuda {
namespace {

/// Columns of a result that down_products() computes together, and whose rows begin aligned.
constexpr int64_t kColumnsTogether = 8;

const PackedUp* up_of(const WeightChange& change) {
  return static_cast<const PackedUp*>(change.up.get());
}

const DenseWeights& down_of(const WeightChange& change) {
  return static_cast<const DenseWeights&>(*change.down.packed);
}

/// A vector with multiples of others in ranges of it.
class ColumnVector {
 public:
  ColumnVector(const float* base, float constant, int64_t columns)
      : sums_{.base = base,
              .constant = constant,
              .columns = columns,
              .items = {},
              .count = 0,
              .out = nullptr} {}

  void add(const float* values, int64_t stride, const WeightTerm& term) {
    const WeightChange& change = *term.weights;
    items_.push_back(
        {values, stride, change.begin, change.begin + change.out_features, term.scale});
  }
  bool empty() const { return items_.empty(); }

  Tensor make(Context& ctx, State& state) {
    const Tensor out = ctx.workspace().allocate({sums_.columns}, DType::kF32);
    sums_.out = out.data<float>();
    size_t done = 0;
    do {
      const size_t count = std::min(items_.size() - done, size_t{ColumnSums::kItems});
      std::copy_n(items_.begin() + static_cast<std::ptrdiff_t>(done), count, sums_.items);
      sums_.count = static_cast<int>(count);
      check_cuda(column_sums(sums_, state.stream()), "column_sums");
      sums_.base = sums_.out;
      done += count;
    } while (done < items_.size());
    return out;
  }

 private:
  ColumnSums sums_;
  std::vector<ColumnSums::Item> items_;
};

/// Collects products of x and scale * down^T, and launches them together.
class DownQueue {
 public:
  DownQueue(State& state, int64_t depth, bool e4m3) : state_(state), depth_(depth), e4m3_(e4m3) {}

  /// out: [rows, columns], whose columns from `column` on are those of `term`.
  void add(const LinearPart& part, const WeightTerm& term, const Tensor& out, int64_t column) {
    const DenseWeights& down = down_of(*term.weights);
    const auto* rows = static_cast<const std::byte*>(down.weight.raw());
    for (int64_t begin = 0; begin < down.columns; begin += kColumnsTogether) {
      if (part_ != &part || items_.back().count == DownProducts::kSlices)
        begin_item(part, out, column + begin);
      DownProducts::Item& item = items_.back();
      item.slices[item.count++] = {
          rows + begin * depth_ * static_cast<int64_t>(size_of(down.weight.dtype())),
          static_cast<int>(std::min(kColumnsTogether, down.columns - begin)), term.scale};
    }
  }

  void launch() {
    for (size_t begin = 0; begin < items_.size(); begin += kMaxDownItems) {
      const size_t count = std::min(kMaxDownItems, items_.size() - begin);
      const DownProducts products{depth_, e4m3_, {items_.data() + begin, count}};
      check_cuda(down_products(products, state_.stream()), "down_products");
    }
  }

 private:
  void begin_item(const LinearPart& part, const Tensor& out, int64_t column) {
    part_ = &part;
    DownProducts::Item& item = items_.emplace_back();
    item = {};
    item.x = part.x.raw();
    item.x_stride = part.x.stride(0);
    item.rows = part.x.size(0);
    if (e4m3_) {
      item.x_scales = part.x_scales.scales.data<float>();
      item.x_scales_stride = part.x_scales.scales.numel() > 1 ? 1 : 0;
    }
    item.out = out.slice(1, column, out.size(1)).raw();
    item.out_stride = out.stride(0);
  }

  State& state_;
  int64_t depth_;
  bool e4m3_;
  std::vector<DownProducts::Item> items_;
  const LinearPart* part_ = nullptr;  // of the last item
};

/// Whether down_products() can read the part.
bool suits_down_products(const LinearPart& part) {
  const auto in_vectors = [](const ConstTensor& x) {
    return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 && x.stride(0) % kColumnsTogether == 0;
  };
  return part.x.dtype() != DType::kF32 && part.x.size(1) % kColumnsTogether == 0 &&
         in_vectors(part.x);
}

/// x of a part in T.
ConstTensor values_of(Context& ctx, State& state, const LinearPart& part) {
  if (part.x.dtype() != DType::kU8) return part.x;
  const Tensor values = ctx.workspace().allocate(part.x.shape(), part.weights->dtype);
  const ConstTensor& scales = part.x_scales.scales;
  const DecodeRows args{.encoding = Encoding::kF8E4M3,
                        .bytes = static_cast<const uint8_t*>(part.x.raw()),
                        .row_bytes = part.x.stride(0),
                        .scales = scales.data<float>(),
                        .scale_each_row = scales.numel() > 1,
                        .rows = part.x.size(0),
                        .columns = part.x.size(1),
                        .out = values.raw()};
  check_cuda(decode_rows(args, values.dtype(), state.stream()), "decode_rows");
  return values;
}

/// to = (to +) gate * from
void store_scaled(Context& ctx, State& state, const Tensor& from, const Tensor& gate, bool adds,
                  const Tensor& to) {
  StoreRows store{};
  store.sums = address(ctx, from);
  store.sums_stride = from.stride(0);
  store.rows = from.size(0);
  store.columns = from.size(1);
  store.gate = gate.data<float>();
  store.out = address(ctx, to);
  store.out_stride = to.stride(0);
  if (adds) {
    store.residual = store.out;
    store.residual_stride = store.out_stride;
  }
  check_cuda(store_rows(store, from.dtype(), state.stream()), "store_rows");
}

/// The product of x and a change that has no low rank: [rows, its outputs].
Tensor whole_product(Context& ctx, State& state, const ConstTensor& x, const WeightChange& change) {
  const int64_t rows = x.size(0);
  const Tensor out = ctx.workspace().allocate({rows, change.out_features}, x.dtype());
  const DenseWeights& down = down_of(change);
  if (!change.outer.defined()) {
    const DenseSegment segment{x, &down, {}, out};
    dense(ctx, state, {&segment, 1});
    return out;
  }
  ConstTensor packed = x;
  if (!x.is_contiguous()) {
    const Tensor copied = ctx.workspace().allocate(x.shape(), x.dtype());
    const CopyRows args{x.raw(), x.stride(0), copied.raw(), x.size(1), rows, x.size(1)};
    check_cuda(cast_rows(args, x.dtype(), x.dtype(), state.stream()), "cast_rows");
    packed = copied;
  }
  const int64_t columns = change.outer.size(1);
  const Tensor inner = ctx.workspace().allocate({rows * columns, down.columns}, x.dtype());
  const DenseSegment segment{packed.reshape({rows * columns, down.depth}), &down, {}, inner};
  dense(ctx, state, {&segment, 1});
  const KroneckerRows args{.outer = change.outer.data<float>(),
                           .columns = columns,
                           .inner = inner.raw(),
                           .width = down.columns,
                           .first = change.first,
                           .rows = rows,
                           .out_columns = change.out_features,
                           .out = out.raw(),
                           .out_stride = change.out_features};
  check_cuda(kronecker_rows(args, x.dtype(), state.stream()), "kronecker_rows");
  return out;
}

/// A copy in memory of its own, which is given back only when no stream reads it any more: other
/// contexts compute with changes, too.
Tensor on_device(Context& ctx, const ConstTensor& host) {
  const Tensor result = new_tensor(ctx, host.shape(), host.dtype());
  copy(ctx, host, result);
  return result;
}

/// The changes of one part.
class Preparation {
 public:
  Preparation(Context& ctx, State& state, const LinearPart& part, DownQueue& queue)
      : ctx_(ctx), state_(state), part_(part), queue_(queue) {}

  PartChanges make() {
    const auto& weights = static_cast<const DenseWeights&>(*part_.weights->packed);
    ColumnVector bias(optional_floats(ctx_, weights.bias), 0.0f, part_.weights->out_features);
    ColumnVector factors(nullptr, 1.0f, part_.weights->out_features);
    std::vector<const WeightTerm*> low_rank;
    std::vector<const WeightTerm*> whole;
    for (const WeightTerm& term : part_.terms) {
      if (term.scale == 0.0f) continue;
      const WeightChange& change = *term.weights;
      const PackedUp* up = up_of(change);
      if (up == nullptr) {
        whole.push_back(&term);
      } else if (change.down.packed == nullptr) {
        bias.add(up->memory.data<float>(), up->memory.stride(0), term);
        changes_.more_bias += std::abs(term.scale) * up->largest;
      } else {
        low_rank.push_back(&term);
        if (!up->gains.defined()) continue;
        factors.add(up->gains.data<float>(), 1, term);
        changes_.largest_factor += std::abs(term.scale) * up->largest_gain;
      }
    }
    if (!bias.empty()) changes_.bias = bias.make(ctx_, state_);
    if (!factors.empty()) changes_.factors = factors.make(ctx_, state_);
    multiply_down(low_rank);
    add_whole(whole);
    return std::move(changes_);
  }

 private:
  void multiply_down(const std::vector<const WeightTerm*>& terms) {
    int64_t columns = 0;
    for (const WeightTerm* term : terms) columns += up_of(*term->weights)->memory.size(1);
    if (columns == 0) return;
    const bool together = suits_down_products(part_);
    const Tensor x = ctx_.workspace().allocate({part_.x.size(0), columns}, part_.weights->dtype);
    int64_t begin = 0;
    for (const WeightTerm* term : terms) {
      const PackedUp& up = *up_of(*term->weights);
      const Tensor own = x.slice(1, begin, begin + up.memory.size(1));
      if (together) {
        queue_.add(part_, *term, x, begin);
      } else {
        multiply_alone(*term, own);
      }
      begin += own.size(1);
      changes_.low_rank.push_back({own, &up, term->weights->begin});
      changes_.terms.push_back({.x = own.raw(),
                                .x_stride = own.stride(0),
                                .up = up.memory.raw(),
                                .depth = own.size(1),
                                .begin = term->weights->begin,
                                .columns = term->weights->out_features,
                                .up_norm = up.norm});
    }
  }

  void multiply_alone(const WeightTerm& term, const Tensor& out) {
    const Workspace::Scope scope(ctx_.workspace());
    const int64_t rank = term.weights->rank();
    const ConstTensor x = values_of(ctx_, state_, part_);
    const Tensor product = ctx_.workspace().allocate({x.size(0), rank}, x.dtype());
    const DenseSegment segment{x, &down_of(*term.weights), {}, product};
    dense(ctx_, state_, {&segment, 1});
    const Tensor gate = filled(ctx_, state_, rank, term.scale);
    store_scaled(ctx_, state_, product, gate, false, out.slice(1, 0, rank));
  }

  void add_whole(const std::vector<const WeightTerm*>& terms) {
    if (terms.empty()) return;
    const Tensor& added = changes_.added = ctx_.workspace().allocate(
        {part_.x.size(0), part_.weights->out_features}, part_.weights->dtype);
    check_cuda(cudaMemsetAsync(added.raw(), 0, static_cast<size_t>(added.bytes()), state_.stream()),
               "cudaMemsetAsync");
    if (part_.out.dtype() == DType::kU8) {
      changes_.added_scale = filled(ctx_, state_, 1, 0.0f);
    }
    const Workspace::Scope scope(ctx_.workspace());
    const ConstTensor x = values_of(ctx_, state_, part_);
    for (const WeightTerm* term : terms) {
      const Workspace::Scope each(ctx_.workspace());
      const WeightChange& change = *term->weights;
      const Tensor product = whole_product(ctx_, state_, x, change);
      const Tensor gate = filled(ctx_, state_, change.out_features, term->scale);
      store_scaled(ctx_, state_, product, gate, true,
                   added.slice(1, change.begin, change.begin + change.out_features));
    }
    if (!changes_.added_scale.defined()) return;
    const LargestRows args{.x = added.raw(),
                           .x_stride = added.stride(0),
                           .rows = added.size(0),
                           .columns = added.size(1),
                           .scale = changes_.added_scale.data<float>()};
    check_cuda(raise_scale(args, state_.stream()), "raise_scale");
  }

  Context& ctx_;
  State& state_;
  const LinearPart& part_;
  DownQueue& queue_;
  PartChanges changes_;
};

}  // namespace

Tensor filled(Context& ctx, State& state, int64_t columns, float value) {
  return ColumnVector(nullptr, value, columns).make(ctx, state);
}

std::shared_ptr<const PackedWeights> pack_up_half(Context& ctx, const ConstTensor& up,
                                                  const ConstTensor& gains, DType dtype) {
  const int64_t rank = up.size(1);
  const Tensor values = Tensor::allocate(up.shape(), DType::kF32);
  copy_convert(up, values);
  const auto packed = std::make_shared<PackedUp>();
  packed->rank = rank;
  const Tensor padded =
      Tensor::allocate({up.size(0), round_up(rank, kColumnsTogether)}, DType::kF32);
  std::fill_n(padded.data<float>(), padded.numel(), 0.0f);
  for (int64_t i = 0; i < up.size(0); ++i) {
    float squares = 0;
    for (int64_t k = 0; k < rank; ++k) {
      const float value = values.data<float>()[i * rank + k];
      padded.data<float>()[i * padded.size(1) + k] = value;
      squares += value * value;
      packed->largest = std::max(packed->largest, std::abs(value));
    }
    packed->norm = std::max(packed->norm, std::sqrt(squares));
  }
  packed->memory = on_device(ctx, to_dtype(padded, dtype));
  if (gains.defined()) {
    for (int64_t i = 0; i < gains.numel(); ++i) {
      packed->largest_gain = std::max(packed->largest_gain, std::abs(gains.data<float>()[i]));
    }
    packed->gains = on_device(ctx, gains);
  }
  return packed;
}

std::vector<PartChanges> prepare_changes(Context& ctx, State& state,
                                         std::span<const LinearPart> parts) {
  DownQueue queue(state, parts[0].x.size(1), parts[0].x.dtype() == DType::kU8);
  std::vector<PartChanges> changes;
  for (const LinearPart& part : parts) {
    changes.push_back(part.terms.empty() || part.x.size(0) == 0
                          ? PartChanges{}
                          : Preparation(ctx, state, part, queue).make());
  }
  queue.launch();
  return changes;
}

void set_changes(const PartChanges& changes, HopperLinear::Segment& segment) {
  if (changes.bias.defined()) segment.bias = changes.bias.data<float>();
  segment.changes.terms = changes.terms;
  if (changes.factors.defined()) segment.changes.factors = changes.factors.data<float>();
  if (changes.added.defined()) {
    segment.changes.added = changes.added.raw();
    segment.changes.added_stride = changes.added.stride(0);
  }
  segment.scales.w_factor = changes.largest_factor;
  segment.scales.more = changes.more_bias;
  if (changes.added_scale.defined()) segment.scales.added = changes.added_scale.data<float>();
}

}  // namespace flux::cuda
