#pragma once

#include <cuda.h>

#include <cstdint>

/// Hopper's instructions that C++ does not have: barriers in shared memory, the tensor copy
/// engine, and matrix products of a warpgroup (128 threads). Source: NVIDIA's PTX ISA. Tiles in
/// shared memory have rows of 128 bytes, swizzled as the copy engine writes them, and begin at
/// multiples of 1024 bytes.
namespace flux::cuda::hopper {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// The block's shared memory as a T at a multiple of 1024 bytes; the launch asks for 1024 bytes
/// more than T has. Rounded by an offset: of a rounded address the compiler would not know that it
/// is in shared memory.
template <typename T>
__device__ T& shared_tiles() {
  extern __shared__ unsigned char shared[];
  return *reinterpret_cast<T*>(shared + (-shared_address(shared) & 1023));
}

__device__ inline void init_barrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
/// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}
__device__ inline void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier))
               : "memory");
}
/// Arrives, and makes the phase wait for `bytes` of copies.
__device__ inline void expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
/// Waits until the phase of this parity has ended.
__device__ inline void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// The L2 policy for copies: evict-normal, or evict-first where `streaming`.
__device__ inline uint64_t l2_policy(bool streaming) {
  uint64_t policy;
  if (streaming) {
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(policy));
  } else {
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;\n" : "=l"(policy));
  }
  return policy;
}

/// Starts the copy of a box of a tensor to shared memory; it arrives at `barrier`.
__device__ inline void copy_box(void* to, const CUtensorMap& map, uint64_t* barrier, int x, int y,
                                int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];\n" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

/// The position in a ring of kStages stages: the stage, and the parity of its phase.
template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;

  __device__ void next() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

/// The same copy to the same address in each block of the cluster that is in `mask`; it arrives at
/// the barrier of each.
__device__ inline void copy_box_to_cluster(void* to, const CUtensorMap& map, uint64_t* barrier,
                                           int x, int y, int z, uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;\n" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "h"(mask)
      : "memory");
}
/// The same two copies with a policy for the L2 cache.
__device__ inline void copy_box(void* to, const CUtensorMap& map, uint64_t* barrier, int x, int y,
                                int z, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;\n" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "l"(policy)
      : "memory");
}
__device__ inline void copy_box_to_cluster(void* to, const CUtensorMap& map, uint64_t* barrier,
                                           int x, int y, int z, uint16_t mask, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;\n" ::"r"(
          shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z), "h"(mask), "l"(policy)
      : "memory");
}
/// Starts the copy of `bytes`, a multiple of 16, from and to addresses that are aligned to 16.
__device__ inline void copy_bytes(void* to, const void* from, int bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;\n" : "=r"(rank));
  return rank;
}
/// All threads of the cluster meet.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive;\nbarrier.cluster.wait;\n" ::: "memory");
}
/// Arrives at the same barrier in block `rank` of the cluster.
__device__ inline void arrive_at(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

/// Stores a value at the address `to` of block `rank` of the cluster; its four bytes arrive at
/// `barrier` of the same block, which expects them.
__device__ inline void send(float value, float* to, uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there, full;\n"
      "mapa.shared::cluster.u32 there, %0, %3;\n"
      "mapa.shared::cluster.u32 full, %1, %3;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %2, [full];\n"
      "}\n" ::"r"(shared_address(to)),
      "r"(shared_address(barrier)), "r"(__float_as_uint(value)), "r"(rank)
      : "memory");
}

/// Waits for `threads` threads at one of the block's 16 barriers, or only arrives there.
__device__ inline void sync_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void arrive_named(int id, int threads) {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
}

/// The matrix descriptor of a tile. The address is in units of 16 bytes in the low word, so that an
/// offset is one addition; the high word is the same for all tiles.
struct Descriptor {
  uint32_t low;

  /// A tile whose rows of 128 bytes lie along the depth of the product.
  __device__ static Descriptor rows(const void* tile) {
    return {shared_address(tile) >> 4 | 1u << 16};
  }
  /// A tile whose rows are the depth; each has 64 columns, the next 64 are `apart` bytes on.
  __device__ static Descriptor columns(const void* tile, uint32_t apart) {
    return {shared_address(tile) >> 4 | apart >> 4 << 16};
  }
  __device__ Descriptor after(uint32_t bytes) const { return {low + (bytes >> 4)}; }
  __device__ operator uint64_t() const {
    constexpr uint64_t kGroup = 1024 >> 4;  // between groups of eight rows
    constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
    return low | kGroup << 32 | kSwizzle128;
  }
};

/// The descriptor of a tile whose rows of 64 bytes lie along the depth and are swizzled as rows of
/// 64 bytes are.
struct Descriptor64 {
  uint32_t low;

  __device__ static Descriptor64 rows(const void* tile) {
    return {shared_address(tile) >> 4 | 1u << 16};
  }
  __device__ Descriptor64 after(uint32_t bytes) const { return {low + (bytes >> 4)}; }
  __device__ operator uint64_t() const {
    constexpr uint64_t kGroup = 512 >> 4;  // between groups of eight rows
    constexpr uint64_t kSwizzle64 = uint64_t{2} << 62;
    return low | kGroup << 32 | kSwizzle64;
  }
};

/// The index of the thread's warpgroup in the block. The shuffle tells the compiler that it is the
/// same for a whole warp, so that values derived from it are computed once a warp.
__device__ inline int warpgroup() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
}

/// Orders earlier writes to registers before the products of a warpgroup that follow.
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
/// Waits until at most kPending committed groups of products are pending.
template <int kPending>
__device__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of registers across this point.
template <int kCount>
__device__ void pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

/// Keeps the compiler from reusing the operand registers of products in flight before this point.
template <int kCount>
__device__ void keep(const uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" ::"r"(values[i]) : "memory");
}

/// Transposes the 4 x 4 words of four neighbouring threads q = 0 ... 3: word i of thread q goes to
/// word q of thread i. For accumulators rounded in pairs the columns of word i of thread q are
///   before   8 i + 2 q and the next
///   after    8 q + 2 i and the next: thread q has eight neighbouring columns
__device__ inline void transpose_words(uint32_t (&words)[4]) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(step)) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const uint32_t sent = upper ? words[i] : words[i + step];
      const uint32_t received = __shfl_xor_sync(0xffffffffu, sent, step);
      (upper ? words[i] : words[i + step]) = received;
    }
  }
}

/// The accumulators of a product, as operands of the assembler and as their names.
#define FLUX_SUMS8(i)                                                                         \
  "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
      "+f"(c[i + 6]), "+f"(c[i + 7])
#define FLUX_SUMS32(i) FLUX_SUMS8(i), FLUX_SUMS8(i + 8), FLUX_SUMS8(i + 16), FLUX_SUMS8(i + 24)
#define FLUX_SUMS48 FLUX_SUMS32(0), FLUX_SUMS8(32), FLUX_SUMS8(40)
#define FLUX_SUMS64 FLUX_SUMS32(0), FLUX_SUMS32(32)
#define FLUX_SUMS96 FLUX_SUMS64, FLUX_SUMS32(64)
#define FLUX_SUMS128 FLUX_SUMS96, FLUX_SUMS32(96)
#define FLUX_NAMES32                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FLUX_NAMES48                                                              \
  FLUX_NAMES32                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47"
#define FLUX_NAMES64                                                              \
  FLUX_NAMES48                                                                    \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, " \
  "%63"
#define FLUX_NAMES96                                                              \
  FLUX_NAMES64                                                                    \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, " \
  "%79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "   \
  "%94, %95"
#define FLUX_NAMES128                                                            \
  FLUX_NAMES96                                                                   \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, " \
  "%109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, "     \
  "%121, %122, %123, %124, %125, %126, %127"

/// c (+)= a b for a [64, depth] and b [depth, columns], the descriptors of tiles whose rows lie
/// along the depth, which is 32 bytes: 16 bf16, or 32 e4m3 in product_e4m3(). c[4 j + 2 i + k] of
/// thread t of the warpgroup is the sum of
///   row      16 (t / 32) + t % 32 / 4 + 8 i
///   column   8 j + 2 (t % 4) + k
/// Operands are numbered, so those after the sums have their numbers as macro arguments.
#define FLUX_LIST(...) __VA_ARGS__
#define FLUX_PRODUCT_OF(function, columns, types, signs, sums, operands, names, a_name, b_name, \
                        add_name)                                                               \
  __device__ inline void function(float(&c)[sums], uint64_t a, uint64_t b, bool add) {          \
    asm volatile(                                                                               \
        "{\n"                                                                                   \
        ".reg .pred add;\n"                                                                     \
        "setp.ne.b32 add, " add_name                                                            \
        ", 0;\n"                                                                                \
        "wgmma.mma_async.sync.aligned.m64n" columns types " {" names "}, " a_name ", " b_name   \
        ", add, " signs                                                                         \
        ";\n"                                                                                   \
        "}\n"                                                                                   \
        : FLUX_LIST operands                                                                    \
        : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                          \
  }
#define FLUX_PRODUCT(columns, ...)                                                  \
  FLUX_PRODUCT_OF(product, columns, "k16.f32.bf16.bf16", "1, 1, 0, 0", __VA_ARGS__) \
  FLUX_PRODUCT_OF(product_e4m3, columns, "k32.f32.e4m3.e4m3", "1, 1", __VA_ARGS__)
FLUX_PRODUCT("64", 32, (FLUX_SUMS32(0)), FLUX_NAMES32, "%32", "%33", "%34")
FLUX_PRODUCT("96", 48, (FLUX_SUMS48), FLUX_NAMES48, "%48", "%49", "%50")
FLUX_PRODUCT("128", 64, (FLUX_SUMS64), FLUX_NAMES64, "%64", "%65", "%66")
FLUX_PRODUCT("192", 96, (FLUX_SUMS96), FLUX_NAMES96, "%96", "%97", "%98")
FLUX_PRODUCT("256", 128, (FLUX_SUMS128), FLUX_NAMES128, "%128", "%129", "%130")

/// The same for 128 columns, with a in registers, laid out as the accumulators of 16 columns and
/// rounded in pairs, and b the descriptor of a tile whose rows are the depth.
__device__ inline void product_columns(float (&c)[64], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FLUX_NAMES64
      "}, {%64, %65, %66, %67}, %68, add, 1, 1, 1;\n"
      "}\n"
      : FLUX_SUMS64
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

/// c += a b for 128 columns and a depth of 32 e4m3, with a in registers: thread t has of row t % 32
/// / 4 of its warp's 16 the four from 4 (t % 4) on, then those of the row eight below, then the
/// same of the depth 16 further on.
__device__ inline void product_e4m3(float (&c)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {" FLUX_NAMES64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1;\n"
               : FLUX_SUMS64
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/// Four values as e4m3, the first in the lowest byte; at most the largest number.
__device__ inline uint32_t pack_e4m3(float a, float b, float c, float d) {
  uint32_t word;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n"
      "}\n"
      : "=r"(word)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return word;
}

#undef FLUX_PRODUCT
#undef FLUX_PRODUCT_OF
#undef FLUX_LIST
#undef FLUX_NAMES128
#undef FLUX_NAMES96
#undef FLUX_NAMES64
#undef FLUX_NAMES48
#undef FLUX_NAMES32
#undef FLUX_SUMS128
#undef FLUX_SUMS96
#undef FLUX_SUMS64
#undef FLUX_SUMS48
#undef FLUX_SUMS32
#undef FLUX_SUMS8

}  // namespace flux::cuda::hopper
