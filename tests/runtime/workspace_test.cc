#include "runtime/workspace.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/fake_device.h"
#include "support/error.h"

namespace flux {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(Workspace, GrowsByBlocksAndBecomesOne) {
  const FakeDevice device;
  Workspace workspace(device);
  const auto pass = [&](int64_t mib, int count) {
    const Workspace::Scope scope(workspace);
    std::vector<Tensor> tensors;
    for (int i = 0; i < count; ++i) {
      tensors.push_back(workspace.allocate({mib * kMiB}, DType::kU8));
      std::memset(tensors.back().raw(), i, static_cast<size_t>(mib * kMiB));
    }
    for (int i = 0; i < count; ++i)
      EXPECT_EQ(tensors[static_cast<size_t>(i)].data<uint8_t>()[7], i);
  };
  pass(1, 20);  // three blocks of 8 MiB
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(24 * kMiB));
  pass(1, 20);
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(20 * kMiB));
  pass(30, 1);  // instead of what is there
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(30 * kMiB));
  pass(1, 20);
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(30 * kMiB));
  workspace.release();
  EXPECT_EQ(workspace.reserved_bytes(), 0u);
  pass(1, 1);
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(8 * kMiB));
}

TEST(Workspace, LaterPeaksLeaveRoomForMore) {
  const FakeDevice device;
  Workspace workspace(device);
  for (const auto& [wanted, held] : {std::pair{33, 33}, {65, 65}, {73, 80}, {80, 80}}) {
    const Workspace::Scope scope(workspace);
    workspace.allocate({wanted * kMiB}, DType::kU8);
    EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(held * kMiB));
  }
}

TEST(Workspace, KeepsWhatAnOuterScopeHolds) {
  const FakeDevice device;
  Workspace workspace(device);
  const Workspace::Scope outer(workspace);
  const Tensor held = workspace.allocate({kMiB}, DType::kU8);
  std::memset(held.raw(), 5, static_cast<size_t>(kMiB));
  for (int i = 0; i < 3; ++i) {
    const Workspace::Scope inner(workspace);
    const Tensor other = workspace.allocate({16 * kMiB}, DType::kU8);
    std::memset(other.raw(), 9, static_cast<size_t>(16 * kMiB));
  }
  EXPECT_EQ(held.data<uint8_t>()[kMiB - 1], 5);
  EXPECT_EQ(workspace.reserved_bytes(), static_cast<size_t>(24 * kMiB));
}

TEST(Workspace, IsNotReleasedWhileAScopeHoldsTensors) {
  const FakeDevice device;
  Workspace workspace(device);
  {
    const Workspace::Scope scope(workspace);
    const Tensor held = workspace.allocate({kMiB}, DType::kU8);
    EXPECT_THROW(workspace.release(), Error);
    std::memset(held.raw(), 5, static_cast<size_t>(kMiB));
    EXPECT_EQ(workspace.allocate({1}, DType::kU8).device(), device.device());
  }
  workspace.release();
  EXPECT_EQ(device.held(), 0u);
}

TEST(Workspace, SaysWhatIsWantedAndFreeWhereThereIsNotEnough) {
  FakeDevice device;
  device.limit_memory(16 * kMiB);
  Workspace workspace(device);
  const Workspace::Scope scope(workspace);
  workspace.allocate({4 * kMiB}, DType::kU8);
  try {
    workspace.allocate({12 * kMiB}, DType::kU8);
    FAIL() << "more than there is";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_STREQ(error.what(),
                 "out of memory on cpu: 12582912 bytes wanted for workspace beside the 8388608 "
                 "held, 8388608 free; generate smaller or fewer images, or free memory there");
  }
}

}  // namespace
}  // namespace flux
