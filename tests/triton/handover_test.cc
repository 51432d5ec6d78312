// The map of the process through which a stage finds the call whose output it writes.
#include "triton/handover.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "ops/registry.h"

namespace flux::triton {
namespace {

/// A point that is reached at once.
class ReachedFence final : public Fence {
 public:
  void wait() const override {}
};

Tensor output() { return Tensor::allocate({4}, DType::kF32); }

TEST(Handover, IsFoundByTheOutputAndTakenOnce) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor written = output();
  Handover handover(written, nullptr);
  EXPECT_EQ(Handover::find(output()), nullptr);
  Handover* found = Handover::find(written);
  ASSERT_EQ(found, &handover);
  EXPECT_FALSE(handover.taken());
  found->take_part(ctx);
  const auto done = std::make_shared<ReachedFence>();
  found->answer(done);
  EXPECT_TRUE(handover.taken());
  EXPECT_EQ(handover.done(), done.get());
}

TEST(Handover, ThatNobodyTakesSaysSo) {
  const Tensor written = output();
  {
    const Handover handover(written, std::make_shared<ReachedFence>());
    EXPECT_FALSE(handover.taken());
    EXPECT_EQ(handover.done(), nullptr);
  }
  EXPECT_EQ(Handover::find(written), nullptr) << "the call has ended";
}

TEST(Handover, KeepsTheFenceOfItsInputs) {
  const Tensor written = output();
  auto ready = std::make_shared<ReachedFence>();
  const std::weak_ptr<ReachedFence> watched = ready;
  {
    const Handover handover(written, std::move(ready));
    EXPECT_FALSE(watched.expired());
  }
  EXPECT_TRUE(watched.expired());
}

TEST(Handover, OfALaterCallAtTheSameAddressIsAnotherOne) {
  Context ctx(backend_for(Device{}), 1);
  const Tensor written = output();
  {
    Handover first(written, nullptr);
    first.take_part(ctx);
  }
  const Handover second(written, nullptr);
  EXPECT_EQ(Handover::find(written), &second);
  EXPECT_FALSE(second.taken());
}

TEST(Handover, SeveralCallsAtOnceDoNotMeet) {
  constexpr int kCalls = 4;
  constexpr int kSteps = 300;
  std::atomic<int> mistakes = 0;
  const auto denoise = [&] {
    Context ctx(backend_for(Device{}), 1);
    const Tensor written = output();
    for (int step = 0; step < kSteps; ++step) {
      Handover handover(written, nullptr);
      // The stage answers from the thread of its instance.
      std::thread stage([&] {
        Handover* found = Handover::find(written);
        if (found != &handover) return void(++mistakes);
        found->take_part(ctx);
        found->answer(std::make_shared<ReachedFence>());
      });
      stage.join();
      if (!handover.taken() || handover.done() == nullptr) ++mistakes;
    }
    if (Handover::find(written) != nullptr) ++mistakes;
  };
  std::vector<std::thread> calls;
  for (int i = 0; i < kCalls; ++i) calls.emplace_back(denoise);
  for (std::thread& call : calls) call.join();
  EXPECT_EQ(mistakes, 0);
}

}  // namespace
}  // namespace flux::triton
