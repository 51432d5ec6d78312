#include "ops/cuda/cublas.h"

#include <algorithm>
#include <utility>

#include "tensor/format.h"

namespace flux::cuda {
namespace {

cudaDataType_t type_of(DType dtype) { return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F; }

/// The power of two that an address and the rows and matrices after it are aligned to.
uint32_t alignment(const void* address, DType dtype, int64_t stride, int64_t batch_stride) {
  const auto element = static_cast<int64_t>(size_of(dtype));
  uint32_t bytes = 256;
  const auto fits = [&](int64_t value) { return value % bytes == 0; };
  while (bytes > 1 && !(fits(static_cast<int64_t>(reinterpret_cast<uintptr_t>(address))) &&
                        fits(stride * element) && fits(batch_stride * element))) {
    bytes /= 2;
  }
  return bytes;
}

/// Owns one cuBLASLt descriptor.
template <typename Handle, cublasStatus_t (*destroy)(Handle)>
class Owner {
 public:
  Owner() = default;
  ~Owner() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;
  Handle* receive() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

class Layout {
 public:
  Layout(DType dtype, int64_t rows, int64_t columns, int64_t stride, int64_t batch,
         int64_t batch_stride) {
    // A matrix of rows is a column-major one of columns.
    check_cublas(
        cublasLtMatrixLayoutCreate(owner_.receive(), type_of(dtype), static_cast<uint64_t>(columns),
                                   static_cast<uint64_t>(rows), stride),
        "cublasLtMatrixLayoutCreate");
    if (batch == 1) return;
    const auto count = static_cast<int32_t>(batch);
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, batch_stride);
  }
  cublasLtMatrixLayout_t get() const { return owner_.get(); }

 private:
  template <typename Value>
  void set(cublasLtMatrixLayoutAttribute_t attribute, Value value) {
    check_cublas(cublasLtMatrixLayoutSetAttribute(owner_.get(), attribute, &value, sizeof(value)),
                 "cublasLtMatrixLayoutSetAttribute");
  }
  Owner<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy> owner_;
};

/// cuBLASLt's description of a product: w is its A, x its B.
class Description {
 public:
  explicit Description(const Product& p)
      : w_(p.dtype, p.w_by_depth ? p.depth : p.columns, p.w_by_depth ? p.columns : p.depth,
           p.w_stride, p.batch, p.w_batch_stride),
        x_(p.dtype, p.rows, p.depth, p.x_stride, p.batch, p.x_batch_stride),
        added_(p.out_dtype, p.rows, p.columns, p.added ? p.added_stride : p.out_stride, p.batch,
               p.out_batch_stride),
        out_(p.out_dtype, p.rows, p.columns, p.out_stride, p.batch, p.out_batch_stride) {
    check_cublas(cublasLtMatmulDescCreate(operation_.receive(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    set(CUBLASLT_MATMUL_DESC_TRANSA, p.w_by_depth ? CUBLAS_OP_N : CUBLAS_OP_T);
    if (p.epilogue == ProductEpilogue::kNone) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue == ProductEpilogue::kBias
                                           ? CUBLASLT_EPILOGUE_BIAS
                                           : CUBLASLT_EPILOGUE_GELU_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  }

  cublasLtMatmulAlgo_t find_algorithm(cublasLtHandle_t handle, const Product& p) const {
    Owner<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy> preference;
    check_cublas(cublasLtMatmulPreferenceCreate(preference.receive()),
                 "cublasLtMatmulPreferenceCreate");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      check_cublas(
          cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
          "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{State::kProductBytes});
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE});
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
           alignment(p.w, p.dtype, p.w_stride, p.w_batch_stride));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
           alignment(p.x, p.dtype, p.x_stride, p.x_batch_stride));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
           alignment(p.out, p.out_dtype, p.out_stride, p.out_batch_stride));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
           p.added ? alignment(p.added, p.out_dtype, p.added_stride, p.out_batch_stride)
                   : alignment(p.out, p.out_dtype, p.out_stride, p.out_batch_stride));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, operation_.get(), w_.get(), x_.get(), added_.get(),
                                       out_.get(), preference.get(), 1, &result, &found);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) {
      check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    }
    check(found == 1, ErrorCode::kUnsupported,
          "cuBLASLt has no way to multiply {} [{}, {}] with [{}, {}]", p.dtype, p.rows, p.depth,
          p.columns, p.depth);
    return result.algo;
  }

  void run(State& state, const Product& p, const cublasLtMatmulAlgo_t& algorithm) const {
    const float one = 1.0f;
    const float beta = p.added ? 1.0f : 0.0f;
    check_cublas(
        cublasLtMatmul(state.cublas(), operation_.get(), &one, p.w, w_.get(), p.x, x_.get(), &beta,
                       p.added ? p.added : p.out, added_.get(), p.out, out_.get(), &algorithm,
                       state.product_workspace(), State::kProductBytes, state.stream()),
        "cublasLtMatmul");
  }

 private:
  template <typename Value>
  void set(cublasLtMatmulDescAttributes_t attribute, Value value) {
    check_cublas(cublasLtMatmulDescSetAttribute(operation_.get(), attribute, &value, sizeof(value)),
                 "cublasLtMatmulDescSetAttribute");
  }

  Owner<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> operation_;
  Layout w_;
  Layout x_;
  Layout added_;
  Layout out_;
};

/// All that the choice of an algorithm may depend on.
std::vector<int64_t> key_of(const Product& p) {
  return {static_cast<int64_t>(p.dtype),
          static_cast<int64_t>(p.out_dtype),
          p.rows,
          p.columns,
          p.depth,
          p.x_stride,
          p.w_stride,
          p.w_by_depth,
          p.out_stride,
          p.added != nullptr,
          p.added == p.out,
          p.added_stride,
          static_cast<int64_t>(p.epilogue),
          p.batch,
          p.x_batch_stride,
          p.w_batch_stride,
          p.out_batch_stride,
          alignment(p.w, p.dtype, p.w_stride, p.w_batch_stride),
          alignment(p.x, p.dtype, p.x_stride, p.x_batch_stride),
          alignment(p.out, p.out_dtype, p.out_stride, p.out_batch_stride)};
}

}  // namespace

void multiply(State& state, const Product& product) {
  const Description description(product);
  std::vector<int64_t> key = key_of(product);
  auto known = state.algorithms().find(key);
  if (known == state.algorithms().end()) {
    // Kept only when there is one: a search that memory ran out for is made again.
    const cublasLtMatmulAlgo_t algorithm = description.find_algorithm(state.cublas(), product);
    known = state.algorithms().emplace(std::move(key), algorithm).first;
  }
  description.run(state, product, known->second);
}

}  // namespace flux::cuda
