#include "ops/cuda/cublas.h"

#include <bit>
#include <optional>

#include "support/error.h"
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

/// A matrix of rows is a column-major one of columns.
struct Matrix {
  DType dtype;
  int64_t rows;
  int64_t columns;
  int64_t stride;
  int64_t batch_stride;
};

void describe(const Matrix& matrix, int64_t batch, cublasLtMatrixLayoutOpaque_t& layout) {
  check_cublas(cublasLtMatrixLayoutInit(&layout, type_of(matrix.dtype),
                                        static_cast<uint64_t>(matrix.columns),
                                        static_cast<uint64_t>(matrix.rows), matrix.stride),
               "cublasLtMatrixLayoutInit");
  if (batch == 1) return;
  const auto set = [&](cublasLtMatrixLayoutAttribute_t attribute, auto value) {
    check_cublas(cublasLtMatrixLayoutSetAttribute(&layout, attribute, &value, sizeof(value)),
                 "cublasLtMatrixLayoutSetAttribute");
  };
  set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, matrix.batch_stride);
}

template <typename Value>
void set_operation(ProductPlan& plan, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check_cublas(cublasLtMatmulDescSetAttribute(&plan.operation, attribute, &value, sizeof(value)),
               "cublasLtMatmulDescSetAttribute");
}

void set_bias(ProductPlan& plan, const Product& p) {
  if (p.epilogue != ProductEpilogue::kNone) {
    set_operation(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  }
}

/// cuBLASLt's description of a product, without an algorithm: w is its A, x its B.
ProductPlan describe(const Product& p) {
  ProductPlan plan{};
  const int64_t w_rows = p.w_by_depth ? p.depth : p.columns;
  const int64_t w_columns = p.w_by_depth ? p.columns : p.depth;
  const int64_t added_stride = p.added ? p.added_stride : p.out_stride;
  describe({p.dtype, w_rows, w_columns, p.w_stride, p.w_batch_stride}, p.batch, plan.w);
  describe({p.dtype, p.rows, p.depth, p.x_stride, p.x_batch_stride}, p.batch, plan.x);
  describe({p.out_dtype, p.rows, p.columns, added_stride, p.out_batch_stride}, p.batch, plan.added);
  describe({p.out_dtype, p.rows, p.columns, p.out_stride, p.out_batch_stride}, p.batch, plan.out);
  check_cublas(cublasLtMatmulDescInit(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescInit");
  set_operation(plan, CUBLASLT_MATMUL_DESC_TRANSA, p.w_by_depth ? CUBLAS_OP_N : CUBLAS_OP_T);
  if (p.epilogue != ProductEpilogue::kNone) {
    set_operation(plan, CUBLASLT_MATMUL_DESC_EPILOGUE,
                  p.epilogue == ProductEpilogue::kBias ? CUBLASLT_EPILOGUE_BIAS
                                                       : CUBLASLT_EPILOGUE_GELU_BIAS);
  }
  set_bias(plan, p);
  return plan;
}

/// What cuBLASLt thinks best for a product of this description; nothing where it has no way.
std::optional<cublasLtMatmulAlgo_t> suggest(cublasLtHandle_t handle, const Product& p,
                                            ProductPlan plan) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check_cublas(cublasLtMatmulPreferenceInit(&preference), "cublasLtMatmulPreferenceInit");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_cublas(
        cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
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
      cublasLtMatmulAlgoGetHeuristic(handle, &plan.operation, &plan.w, &plan.x, &plan.added,
                                     &plan.out, &preference, 1, &result, &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0) return std::nullopt;
  return result.algo;
}

/// Whether an algorithm, found for another number of rows, does the product of a plan.
bool suits(cublasLtHandle_t handle, ProductPlan plan, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle, &plan.operation, &plan.w, &plan.x, &plan.added, &plan.out,
                                 &algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= State::kProductBytes;
}

/// Numbers of rows up to a power of two share an algorithm. The driver loads a kernel when it is
/// first asked for, and keeps it: with an algorithm for each number of rows, the GPU's memory would
/// still grow after thousands of requests of mixed sizes.
void find_algorithm(cublasLtHandle_t handle, const Product& p, ProductPlan& plan) {
  Product rounded = p;
  rounded.rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(p.rows)));
  std::optional<cublasLtMatmulAlgo_t> found = suggest(handle, rounded, describe(rounded));
  if (!found || !suits(handle, plan, *found)) found = suggest(handle, p, plan);
  check(found.has_value(), ErrorCode::kUnsupported,
        "cuBLASLt has no way to multiply {} [{}, {}] with [{}, {}]", p.dtype, p.rows, p.depth,
        p.columns, p.depth);
  plan.algorithm = *found;
}

void run(State& state, const Product& p, ProductPlan& plan) {
  const float one = 1.0f;
  const float beta = p.added ? 1.0f : 0.0f;
  const void* added = p.added ? p.added : p.out;
  check_cublas(cublasLtMatmul(state.cublas(), &plan.operation, &one, p.w, &plan.w, p.x, &plan.x,
                              &beta, added, &plan.added, p.out, &plan.out, &plan.algorithm,
                              state.product_workspace(), State::kProductBytes, state.stream()),
               "cublasLtMatmul");
}

/// All that a description, but for its bias, and the choice of an algorithm depend on.
ProductKey key_of(const Product& p) {
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
  const ProductKey key = key_of(product);
  auto known = state.product_plans().find(key);
  if (known == state.product_plans().end()) {
    ProductPlan plan = describe(product);
    // Kept only when there is one: a search that memory ran out for is made again.
    find_algorithm(state.cublas(), product, plan);
    known = state.product_plans().emplace(key, plan).first;
  } else {
    set_bias(known->second, product);
  }
  run(state, product, known->second);
}

}  // namespace flux::cuda
