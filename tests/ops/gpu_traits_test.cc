#include "ops/cuda/kernels/gpu_traits.h"

#include <gtest/gtest.h>

namespace flux::cuda {
namespace {

struct Expected {
  const char* name;
  GpuFigures gpu;
  double terabytes;  // a second
  double teraflops;
  int64_t norm_blocks, useful_rows, band_rows, kept_mib;
};
constexpr int64_t kMiB = int64_t{1} << 20;
const Expected kGpus[] = {
    {"H100 80GB HBM3", kTunedGpu, 3.352, 1070.5, 660, 8192, 2304, 32},
    {"H200",
     {9, 0, 132, 1'980'000, 3'201'000, 6144, 60 * kMiB},
     4.917,
     1070.5,
     660,
     8192,
     2764,
     38},
    {"H100 PCIe",
     {9, 0, 114, 1'755'000, 1'593'000, 5120, 50 * kMiB},
     2.039,
     819.5,
     570,
     7168,
     2304,
     32},
    {"A100", {8, 0, 108, 1'410'000, 1'215'000, 5120, 40 * kMiB}, 1.555, 311.9, 540, 6144, 1843, 25},
    {"L40S", {8, 9, 142, 2'520'000, 9'001'000, 384, 96 * kMiB}, 0.864, 366.4, 710, 8192, 4423, 61},
    {"a slice of a GPU",
     {9, 0, 16, 1'980'000, 2'619'000, 640, 6 * kMiB},
     0.419,
     129.8,
     80,
     1024,
     276,
     3},
    {"unknown figures", {9, 0, 132, 0, 0, 0, 0}, 3.352, 1070.5, 660, 8192, 2304, 32},
};

TEST(GpuTraits, AreExpressionsOfTheGpusOwnFigures) {
  for (const Expected& expected : kGpus) {
    SCOPED_TRACE(expected.name);
    const GpuTraits gpu = make_gpu_traits(expected.gpu, true);
    EXPECT_TRUE(gpu.hopper);
    EXPECT_EQ(gpu.multiprocessors, expected.gpu.multiprocessors);
    EXPECT_NEAR(gpu.bandwidth / 1e12, expected.terabytes, 1e-3);
    EXPECT_NEAR(gpu.tensor_rate / 1e12, expected.teraflops, 0.1);
    EXPECT_EQ(norm_blocks(gpu), expected.norm_blocks);
    EXPECT_EQ(useful_rows(gpu), expected.useful_rows);
    EXPECT_EQ(band_rows(gpu), expected.band_rows);
    EXPECT_EQ(kept_bytes(gpu) / kMiB, expected.kept_mib);
  }
}

TEST(GpuTraits, ProductsOfFp8BeginWithAda) {
  struct Case {
    int major, minor;
    bool fp8;
  };
  for (const Case& c : {Case{8, 0, false},
                        {8, 6, false},
                        {8, 9, true},
                        {9, 0, true},
                        {10, 0, true},
                        {12, 0, true}}) {
    GpuFigures gpu = kTunedGpu;
    gpu.major = c.major;
    gpu.minor = c.minor;
    EXPECT_EQ(make_gpu_traits(gpu, false).fp8, c.fp8) << c.major << "." << c.minor;
  }
}

TEST(GpuTraits, RatesOfTheTunedGpuAreTheMeasuredOnes) {
  const GpuTraits gpu = make_gpu_traits(kTunedGpu, true);
  EXPECT_EQ(kept_bytes(gpu), 32 * kMiB);
  for (const int64_t depth : {3072, 8192, 8193, 15360}) {
    const LinearRates rates = linear_rates(gpu, depth);
    EXPECT_EQ(rates.own, 690e12);
    EXPECT_EQ(rates.library, depth > 8192 ? 700e12 : 650e12);
    EXPECT_EQ(rates.passes, 2.5e12);
  }
}

TEST(GpuTraits, RatesAreInProportionToTensorCoresAndMemory) {
  const LinearRates tuned = linear_rates(make_gpu_traits(kTunedGpu, true), 3072);
  GpuFigures half = kTunedGpu;
  half.multiprocessors /= 2;
  half.memory_clock_khz /= 3;
  const LinearRates rates = linear_rates(make_gpu_traits(half, true), 3072);
  EXPECT_DOUBLE_EQ(rates.own, tuned.own / 2);
  EXPECT_DOUBLE_EQ(rates.library, tuned.library / 2);
  EXPECT_DOUBLE_EQ(rates.passes, tuned.passes / 3);
}

}  // namespace
}  // namespace flux::cuda
