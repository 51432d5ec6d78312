#include "ops/workspace.h"

#include <gtest/gtest.h>

#include <cstring>

#include "ops/backend.h"

namespace flux {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

TEST(Workspace, GrowsByBlocksAndBecomesOne) {
  Workspace workspace(backend_for(Device{}));
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

TEST(Workspace, KeepsWhatAnOuterScopeHolds) {
  Workspace workspace(backend_for(Device{}));
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

}  // namespace
}  // namespace flux
