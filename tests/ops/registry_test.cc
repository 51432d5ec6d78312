#include "ops/registry.h"

#include <gtest/gtest.h>

#include "ops/cuda_library.h"
#include "support/error.h"

namespace flux {
namespace {

TEST(Device, ParsesItsNames) {
  EXPECT_EQ(parse_device("auto").is_cpu(), !has_cuda());
  EXPECT_EQ(to_string(parse_device("cpu")), "cpu");
  EXPECT_THROW(parse_device("tpu"), Error);
  EXPECT_THROW(parse_device("cuda:"), Error);
  EXPECT_THROW(parse_device("cuda:x"), Error);
  EXPECT_THROW(parse_device("cuda:99999999999999"), Error);
}

TEST(Device, SaysWhyAGpuCannotBeUsed) {
  if (has_cuda()) {
    EXPECT_EQ(to_string(parse_device("cuda")), "cuda:0");
    return;
  }
  try {
    parse_device("cuda");
    FAIL() << "there is no GPU";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    const std::string message = error.what();
    EXPECT_TRUE(message.starts_with("device 'cuda': ")) << message;
    EXPECT_NE(message.find("use the device cpu"), message.npos) << message;
  }
}

TEST(Ops, RefuseATensorOfAnotherDevice) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor here = Tensor::allocate({2, 8}, DType::kF32);
  const Tensor elsewhere(here.raw(), DType::kF32, here.shape(), {Device::Kind::kCuda, 0});
  try {
    add(ctx, here, elsewhere, here);
    FAIL() << "computed on the CPU with a tensor of a GPU";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_STREQ(error.what(), "add: b f32[2, 8] is on cuda:0, but cpu computes");
  }
}

/// A device that implements no op.
class BareDevice final : public Backend {
 public:
  Device device() const override { return {}; }
  std::shared_ptr<std::byte> allocate(size_t) const override { return nullptr; }
  void copy(Context&, const ConstTensor&, const Tensor&) override {}
  bool supports(DType) const override { return true; }
};

TEST(Ops, AreRefusedByNameWhereADeviceLacksThem) {
  BareDevice device;
  Context ctx(device, 1);
  const Tensor x = Tensor::allocate({2, 8}, DType::kF32);
  try {
    multiply(ctx, x, x, x);
    FAIL() << "a device without ops computed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "the op multiply is not implemented for this device");
  }
}

}  // namespace
}  // namespace flux
