#include "ops/cpu/onednn.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <dnnl.hpp>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <unordered_map>
#include <utility>

#include "ops/cpu/parallel.h"
#include "support/error.h"

namespace flux::cpu {
namespace {

using dnnl::memory;

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

const dnnl::stream& cpu_stream() {
  thread_local const dnnl::stream stream(cpu_engine());
  return stream;
}

memory::data_type type_of(DType dtype) {
  return dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
}

std::string describe(const ProductShape& shape) {
  return fmt::format("bf16 product [{}, {}] x [{}, {}]", shape.rows, shape.depth, shape.depth,
                     shape.columns);
}

std::string describe(const ConvolutionShape& shape) {
  return fmt::format("{} convolution {}x{} of {} to {} channels, kernel {}, stride {}",
                     name_of(shape.dtype), shape.height, shape.width, shape.in, shape.out,
                     shape.kernel, shape.stride);
}

/// oneDNN crashes when it gets no memory for a kernel's code. Where little memory is left, this
/// throws an Error instead.
template <typename Shape>
void check_headroom(const Shape& shape) {
  constexpr size_t kHeadroom = size_t{32} << 20;
  void* probe = ::mmap(nullptr, kHeadroom, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (probe == MAP_FAILED) {
    fail(ErrorCode::kUnavailable,
         "out of memory on cpu: fewer than {} bytes are left to make the kernel of a {}; generate "
         "smaller or fewer images",
         kHeadroom, describe(shape));
  }
  ::munmap(probe, kHeadroom);
}

/// Runs f and turns oneDNN's exceptions into an Error that names `shape`.
template <typename Shape, typename F>
auto translated(const Shape& shape, const F& f) {
  try {
    return f();
  } catch (const dnnl::error& error) {
    check(error.status != dnnl_out_of_memory, ErrorCode::kUnavailable,
          "out of memory in oneDNN for a {}; generate smaller or fewer images", describe(shape));
    fail(ErrorCode::kInternal, "oneDNN failed with status {} for a {}: {}",
         static_cast<int>(error.status), describe(shape), error.what());
  }
}

dnnl::primitive_attr user_scratchpad() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

/// `Primitive::primitive_desc` of what describes one operation. oneDNN 2 (Debian 12, Ubuntu 22.04)
/// has a descriptor of its own for that, oneDNN 3 (Ubuntu 24.04, Debian 13) has not.
template <typename Primitive, typename... Operation>
typename Primitive::primitive_desc describe_primitive(const Operation&... operation) {
#if DNNL_VERSION_MAJOR >= 3
  return {cpu_engine(), operation..., user_scratchpad()};
#else
  return {typename Primitive::desc(operation...), user_scratchpad(), cpu_engine()};
#endif
}

/// `weights` may have the format "any": then the library picks the layout.
dnnl::matmul::primitive_desc compile(const ProductShape& shape, const memory::desc& weights) {
  const memory::desc x({shape.rows, shape.depth}, memory::data_type::bf16, memory::format_tag::ab);
  const memory::desc sums({shape.rows, shape.columns}, memory::data_type::f32,
                          memory::format_tag::ab);
  return describe_primitive<dnnl::matmul>(x, weights, sums);
}

dnnl::convolution_forward::primitive_desc compile(const ConvolutionShape& shape,
                                                  const memory::desc& weights) {
  const auto side = [&](int64_t results) { return (results - 1) * shape.stride + shape.kernel; };
  const memory::desc x({1, shape.in, side(shape.height), side(shape.width)}, type_of(shape.dtype),
                       memory::format_tag::nhwc);
  const memory::desc sums({1, shape.out, shape.height, shape.width}, memory::data_type::f32,
                          memory::format_tag::nhwc);
  const memory::dims strides = {shape.stride, shape.stride};
  const memory::dims padding = {0, 0};
  return describe_primitive<dnnl::convolution_forward>(dnnl::prop_kind::forward_inference,
                                                       dnnl::algorithm::convolution_direct, x,
                                                       weights, sums, strides, padding, padding);
}

memory::desc weights_as(const ProductShape& shape, memory::format_tag tag) {
  return {{shape.depth, shape.columns}, memory::data_type::bf16, tag};
}

memory::desc weights_as(const ConvolutionShape& shape, memory::format_tag tag) {
  return {{shape.out, shape.in, shape.kernel, shape.kernel}, type_of(shape.dtype), tag};
}

/// The layout of packed weights. It must be the same for every number of rows, so one number
/// stands for all.
memory::desc packed_layout(ProductShape shape) {
  shape.rows = 128;
  return compile(shape, weights_as(shape, memory::format_tag::any)).weights_desc();
}

memory::desc packed_layout(const ConvolutionShape& shape) {
  return compile(shape, weights_as(shape, memory::format_tag::any)).weights_desc();
}

template <typename Primitive, typename Shape>
class CompiledTile final : public TileKernel {
 public:
  explicit CompiledTile(const Shape& shape) : shape_(shape) {
    check_headroom(shape);
    translated(shape, [&] {
      const SingleThreadScope single;
      const auto description = compile(shape, packed_layout(shape));
      x_ = description.src_desc();
      weights_ = description.weights_desc();
      sums_ = description.dst_desc();
      scratch_ = description.scratchpad_desc();
      implementation_ = description.impl_info_str();
      primitive_ = Primitive(description);
    });
  }

  int64_t scratch_bytes() const override { return static_cast<int64_t>(scratch_.get_size()); }

  std::string_view implementation() const override { return implementation_; }

  void run(const void* x, const void* weights, float* sums, void* scratch) const override {
    translated(shape_, [&] {
      const dnnl::engine& engine = cpu_engine();
      // oneDNN's memory takes no const address; it only reads these two.
      primitive_.execute(cpu_stream(),
                         {{DNNL_ARG_SRC, memory(x_, engine, const_cast<void*>(x))},
                          {DNNL_ARG_WEIGHTS, memory(weights_, engine, const_cast<void*>(weights))},
                          {DNNL_ARG_DST, memory(sums_, engine, sums)},
                          {DNNL_ARG_SCRATCHPAD, memory(scratch_, engine, scratch)}});
    });
  }

 private:
  Shape shape_;
  memory::desc x_;
  memory::desc weights_;
  memory::desc sums_;
  memory::desc scratch_;
  std::string implementation_;
  Primitive primitive_;
};

/// Cache of the compiled kernels of the whole process. When it is full, the least recently used
/// kernel is dropped; a thread that still runs it keeps it alive.
class KernelCache {
 public:
  using Key = std::array<int64_t, 8>;

  template <typename Make>
  std::shared_ptr<const TileKernel> find_or_make(const Key& key, const Make& make) {
    if (auto kernel = find(key)) return kernel;
    std::shared_ptr<const TileKernel> made =
        make();  // without the lock, so that other threads need not wait
    const std::unique_lock lock(mutex_);
    if (entries_.size() >= kCapacity) drop_oldest();
    const auto [entry, inserted] = entries_.try_emplace(key);
    if (inserted) entry->second.kernel = std::move(made);
    entry->second.last_use = ++clock_;
    return entry->second.kernel;
  }

 private:
  static constexpr size_t kCapacity = 1024;

  struct Entry {
    std::shared_ptr<const TileKernel> kernel;
    std::atomic<uint64_t> last_use{0};
  };
  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t hash = 0;
      for (const int64_t part : key) {
        hash = (hash ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
      }
      return hash;
    }
  };

  std::shared_ptr<const TileKernel> find(const Key& key) {
    const std::shared_lock lock(mutex_);
    const auto entry = entries_.find(key);
    if (entry == entries_.end()) return nullptr;
    entry->second.last_use = ++clock_;
    return entry->second.kernel;
  }

  void drop_oldest() {
    auto oldest = entries_.begin();
    for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
      if (entry->second.last_use < oldest->second.last_use) oldest = entry;
    }
    entries_.erase(oldest);
  }

  std::shared_mutex mutex_;
  std::atomic<uint64_t> clock_{0};
  std::unordered_map<Key, Entry, Hash> entries_;
};

KernelCache& kernel_cache() {
  // This cache is the only one: oneDNN's own would keep what this one drops.
  static const bool alone = (dnnl::set_primitive_cache_capacity(0), true);
  static_cast<void>(alone);
  static KernelCache cache;
  return cache;
}

template <typename Shape>
class ReorderPacker final : public WeightPacker {
 public:
  ReorderPacker(const Shape& shape, memory::format_tag plain_tag)
      : shape_(shape), plain_(weights_as(shape, plain_tag)) {
    check_headroom(shape);
    translated(shape, [&] {
      const SingleThreadScope single;
      packed_ = packed_layout(shape);
      pack_ =
          dnnl::reorder(dnnl::reorder::primitive_desc(cpu_engine(), plain_, cpu_engine(), packed_));
    });
  }

  int64_t packed_bytes() const override { return static_cast<int64_t>(packed_.get_size()); }

  void pack(const void* plain, void* packed) const override {
    translated(shape_, [&] { execute(pack_, plain_, plain, packed_, packed); });
  }

 private:
  static void execute(const dnnl::reorder& reorder, const memory::desc& from_layout,
                      const void* from, const memory::desc& to_layout, void* to) {
    const memory source(from_layout, cpu_engine(), const_cast<void*>(from));
    const memory target(to_layout, cpu_engine(), to);
    reorder.execute(cpu_stream(), {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}});
  }

  Shape shape_;
  memory::desc plain_;
  memory::desc packed_;
  dnnl::reorder pack_;
};

/// The values of cpu_isa are sets of bits, so newer instruction sets hold those of
/// avx512_core_bf16.
Bf16Path processor_path() {
  constexpr auto bf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  const auto isa = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
  return (isa & bf16) == bf16 ? Bf16Path::kNative : Bf16Path::kThroughF32;
}

std::atomic<Bf16Path>& chosen_path() {
  static std::atomic<Bf16Path> path = processor_path();
  return path;
}

}  // namespace

std::shared_ptr<const TileKernel> tile_kernel(const ProductShape& shape) {
  const KernelCache::Key key = {0, shape.rows, shape.depth, shape.columns};
  return kernel_cache().find_or_make(
      key, [&] { return std::make_shared<CompiledTile<dnnl::matmul, ProductShape>>(shape); });
}

std::shared_ptr<const TileKernel> tile_kernel(const ConvolutionShape& shape) {
  const KernelCache::Key key = {1,
                                static_cast<int64_t>(shape.dtype),
                                shape.height,
                                shape.width,
                                shape.in,
                                shape.out,
                                shape.kernel,
                                shape.stride};
  return kernel_cache().find_or_make(key, [&] {
    return std::make_shared<CompiledTile<dnnl::convolution_forward, ConvolutionShape>>(shape);
  });
}

std::unique_ptr<WeightPacker> weight_packer(const ProductShape& shape) {
  return std::make_unique<ReorderPacker<ProductShape>>(shape, memory::format_tag::ba);
}

std::unique_ptr<WeightPacker> weight_packer(const ConvolutionShape& shape) {
  return std::make_unique<ReorderPacker<ConvolutionShape>>(shape, memory::format_tag::oihw);
}

Bf16Path bf16_path() { return chosen_path().load(std::memory_order_relaxed); }

void set_bf16_path(Bf16Path path) { chosen_path().store(path, std::memory_order_relaxed); }

}  // namespace flux::cpu
