// Calls to another model of the server: what it gets, what comes back, and how long the caller
// waits.
#include "triton/nested_call.h"

#include <chrono>
#include <cstring>
#include <optional>

#include "fake_server.h"
#include "ops/registry.h"
#include "support/error.h"

namespace flux::triton {
namespace {

const auto kGoOn = [] { return false; };

Tensor floats(std::initializer_list<float> values) {
  const Tensor tensor = Tensor::allocate({static_cast<int64_t>(values.size())}, DType::kF32);
  std::copy(values.begin(), values.end(), tensor.data<float>());
  return tensor;
}

std::string bytes_of(const ConstTensor& tensor) {
  return {tensor.data<char>(), static_cast<size_t>(tensor.bytes())};
}

/// An answer of the stage: [1, values].
Output answer_of(const std::string& name, std::initializer_list<float> values) {
  return {.name = name,
          .type = DataType::kFp32,
          .shape = {1, static_cast<int64_t>(values.size())},
          .bytes = bytes_of(floats(values))};
}

class NestedCallTest : public FakeServerTest {
 protected:
  /// What waiting for the only call to model `stage` throws.
  std::optional<Error> error_of(const std::function<void(NestedRequest&)>& stage,
                                const std::function<bool()>& stopped = kGoOn) {
    server.models["stage"] = stage;
    try {
      NestedCall call(&server, "stage", "", ctx);
      call.start();
      call.wait(stopped);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  }

  void expect_error(const std::optional<Error>& error, ErrorCode code, const std::string& text) {
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code(), code);
    EXPECT_EQ(error->what(), text);
  }

  Context ctx{backend_for(Device{}), 1};
};

TEST_F(NestedCallTest, HandsInputsOverWhereTheyAre) {
  const Tensor hidden = floats({1, 2, 3});
  server.models["stage"] = [&](NestedRequest& request) {
    EXPECT_EQ(request.id, "client-7");
    EXPECT_EQ(request.timeout_us, 5000U);
    EXPECT_EQ(request.parameters["timesteps"], "[1,0.5]");
    EXPECT_EQ(request.parameters["step"], "1");
    const auto& tensor = request.inputs.at("hidden_states");
    EXPECT_EQ(tensor.address, hidden.raw());
    EXPECT_EQ(tensor.type, DataType::kFp32);
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{1, 3}));
    EXPECT_EQ(tensor.bytes, 12U);
    const auto& text = request.inputs.at("prompt");
    EXPECT_EQ(text.type, DataType::kBytes);
    EXPECT_EQ(std::string(static_cast<const char*>(text.address), text.bytes),
              std::string("\x05\0\0\0a cat", 9));
    const auto& number = request.inputs.at("timestep");
    EXPECT_EQ(*static_cast<const float*>(number.address), 0.25F);
    const auto& integer = request.inputs.at("max_sequence_length");
    EXPECT_EQ(integer.type, DataType::kInt32);
    EXPECT_EQ(*static_cast<const int32_t*>(integer.address), 77);
    request.answer({});
    request.release();
  };
  NestedCall call(&server, "stage", "client-7", ctx);
  call.add_input("hidden_states", hidden);
  call.add_string("prompt", "a cat");
  call.add_number("timestep", 0.25F);
  call.add_integer("max_sequence_length", 77);
  call.set_timeout(5000);
  call.set_parameter("timesteps", "[1,0.5]");
  call.set_parameter("step", 1);
  call.start();
  call.wait(kGoOn);
}

TEST_F(NestedCallTest, TakesOutputsWhereTheyAreExpectedOrInNewMemory) {
  const Tensor expected = floats({0, 0});
  server.models["stage"] = [&](NestedRequest& request) {
    request.answer({answer_of("given", {1, 2}), answer_of("made", {3, 4, 5})}, {"truncated"});
    request.release();
  };
  Tensor made;
  {
    NestedCall call(&server, "stage", "", ctx);
    call.expect_output("given", expected);
    call.start();
    call.wait(kGoOn);
    EXPECT_EQ(call.take_output("given").raw(), expected.raw());
    made = call.take_output("made");
    EXPECT_TRUE(call.flag("truncated"));
    EXPECT_FALSE(call.flag("other"));
    EXPECT_THROW(call.take_output("missing"), Error);
  }
  EXPECT_EQ(bytes_of(expected), bytes_of(floats({1, 2})));
  EXPECT_EQ(made.shape(), Shape{3});
  EXPECT_EQ(bytes_of(made), bytes_of(floats({3, 4, 5}))) << "it outlives the call";
}

TEST_F(NestedCallTest, ThrowsWhatTheStageAnswered) {
  const auto answering = [](ServerErrorCode code) {
    return [code](NestedRequest& request) {
      request.answer_error(code, "why");
      request.release();
    };
  };
  // What bls sends a stage is no client's doing.
  expect_error(error_of(answering(ServerErrorCode::kInvalidArg)), ErrorCode::kInternal,
               "stage 'stage': why");
  expect_error(error_of(answering(ServerErrorCode::kInternal)), ErrorCode::kInternal,
               "stage 'stage': why");
  expect_error(error_of(answering(ServerErrorCode::kUnavailable)), ErrorCode::kUnavailable,
               "stage 'stage': why");
  // A server that stops answers so: clients may try again.
  expect_error(error_of(answering(ServerErrorCode::kNotFound)), ErrorCode::kUnavailable,
               "stage 'stage': why");
}

TEST_F(NestedCallTest, RefusesAnswersOfAnotherForm) {
  const auto answering = [](const Output& output) {
    return [output](NestedRequest& request) {
      request.answer({output});
      request.release();
    };
  };
  Output output = answer_of("image", {1, 2});
  output.shape = {2, 1};
  expect_error(error_of(answering(output)), ErrorCode::kInternal,
               "stage 'stage' answered output image in a form that is not expected");
  output.shape = {1, 3};
  expect_error(error_of(answering(output)), ErrorCode::kInternal,
               "stage 'stage' answered 8 bytes for image of [3]");
  output.shape = {1, 2};
  output.type = DataType::kFp64;
  expect_error(error_of(answering(output)), ErrorCode::kInternal,
               "stage 'stage' answered output image in a form that is not expected");
}

TEST_F(NestedCallTest, RefusesWhatDoesNotFitTheExpectedOutput) {
  const Tensor expected = floats({0, 0});
  const auto error_with = [&](const Output& output) -> std::optional<Error> {
    server.models["stage"] = [output](NestedRequest& request) {
      request.answer({output});
      request.release();
    };
    NestedCall call(&server, "stage", "", ctx);
    call.expect_output("image", expected);
    call.start();
    try {
      call.wait(kGoOn);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  };
  // The stage gets no memory for it.
  expect_error(error_with(answer_of("image", {1, 2, 3})), ErrorCode::kInternal,
               "stage 'stage': no memory for image");
  Output half = answer_of("image", {1, 2});
  half.type = DataType::kBf16;
  half.shape = {1, 4};
  expect_error(error_with(half), ErrorCode::kInternal,
               "stage 'stage' answered image as bf16[4], expected f32[2]");
}

TEST_F(NestedCallTest, IsUnavailableWithoutAModelOrAResponse) {
  try {
    const NestedCall call(&server, "vae_decoder", "", ctx);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnavailable);
    EXPECT_STREQ(error.what(),
                 "stage 'vae_decoder' is not loaded or the server is stopping: unknown model "
                 "vae_decoder");
  }
  expect_error(error_of([](NestedRequest& request) {
                 request.answer_nothing();
                 request.release();
               }),
               ErrorCode::kUnavailable, "stage 'stage' gave no response");
}

TEST_F(NestedCallTest, ThatCannotStartWaitsForNothing) {
  const auto never = [](NestedRequest&) { ADD_FAILURE() << "it has not started"; };
  world().fail_next("TRITONSERVER_ServerInferAsync", ServerErrorCode::kUnavailable,
                    "Exceeds maximum queue size");
  expect_error(error_of(never), ErrorCode::kUnavailable,
               "stage 'stage' is not loaded, is full, or the server is stopping: Exceeds maximum "
               "queue size");
  world().fail_next("TRITONSERVER_ServerInferAsync", ServerErrorCode::kInvalidArg, "a bad input");
  expect_error(error_of(never), ErrorCode::kInternal, "stage 'stage': a bad input");
  const NestedCall not_started(&server, "stage", "", ctx);
}

TEST_F(NestedCallTest, WaitsForTheReleaseAfterTheResponse) {
  std::atomic<bool> about_to_release = false;
  const auto error = error_of([&](NestedRequest& request) {
    request.answer({});
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    about_to_release = true;
    request.release();
  });
  EXPECT_FALSE(error.has_value());
  EXPECT_TRUE(about_to_release) << "the stage may read inputs until it lets go of them";
}

TEST_F(NestedCallTest, TakesAReleaseBeforeTheResponse) {
  const auto error = error_of([](NestedRequest& request) {
    request.release();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    request.answer({});
  });
  EXPECT_FALSE(error.has_value());
}

TEST_F(NestedCallTest, CancelsWhenTheCallerStops) {
  std::atomic<bool> waiting = false;
  const auto error = error_of(
      [&](NestedRequest& request) {
        waiting = true;
        request.wait_for_cancellation();
        request.answer_error(ServerErrorCode::kCancelled, "");
        request.release();
      },
      [&] { return waiting.load(); });
  expect_error(error, ErrorCode::kCancelled, "cancelled in stage 'stage'");
}

TEST_F(NestedCallTest, PassesOnWhatIsAboutTheClientsWord) {
  std::string said = "lora \"style\": damaged";
  server.models["stage"] = [&](NestedRequest& request) {
    request.answer_error(ServerErrorCode::kInvalidArg, said);
    request.release();
  };
  const auto ask = [&]() -> std::optional<Error> {
    try {
      NestedCall call(&server, "stage", "", ctx);
      call.expect_refusal_of("lora");
      call.start();
      call.wait(kGoOn);
    } catch (const Error& error) {
      return error;
    }
    return std::nullopt;
  };
  expect_error(ask(), ErrorCode::kInvalidArgument, "lora \"style\": damaged");
  said = "prompt is missing";
  expect_error(ask(), ErrorCode::kInternal, "stage 'stage': prompt is missing");
}

TEST_F(NestedCallTest, IsCancelledThoughTheStageSaysWhyInItsOwnWay) {
  // A stage that finds the time over before its caller does.
  const auto error = error_of(
      [](NestedRequest& request) {
        request.answer_error(ServerErrorCode::kUnavailable, "the request's timeout passed");
        request.release();
      },
      [] { return true; });
  expect_error(error, ErrorCode::kCancelled, "cancelled in stage 'stage'");
}

TEST_F(NestedCallTest, DestroyedBeforeTheResponseCancelsAndWaits) {
  std::atomic<bool> released = false;
  server.models["stage"] = [&](NestedRequest& request) {
    request.wait_for_cancellation();
    // The inputs are still there, and so is the memory of the output.
    const auto& input = request.inputs.at("prompt");
    EXPECT_EQ(std::string(static_cast<const char*>(input.address), input.bytes),
              std::string("\x02\0\0\0hi", 6));
    request.answer({answer_of("image", {1, 2, 3})});
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    released = true;
    request.release();
  };
  {
    NestedCall call(&server, "stage", "", ctx);
    call.add_string("prompt", "hi");
    call.start();
  }
  EXPECT_TRUE(released);
}

TEST_F(NestedCallTest, ManyAtOnceComeAndGo) {
  server.models["stage"] = [](NestedRequest& request) {
    request.answer({answer_of("sum", {1})});
    request.release();
  };
  const auto use = [&] {
    Context own(backend_for(Device{}), 1);
    for (int i = 0; i < 50; ++i) {
      NestedCall call(&server, "stage", "", own);
      call.add_number("timestep", 1);
      call.start();
      if (i % 3 == 0) continue;  // nobody waits for it
      call.wait(kGoOn);
      EXPECT_EQ(call.take_output("sum").data<float>()[0], 1);
    }
  };
  std::thread other(use);
  use();
  other.join();
}

/// The fence of a stage's output, which counts who waits for it on the host.
class StageFence final : public Fence {
 public:
  void wait() const override {}
};

TEST_F(NestedCallTest, SaysWhetherTheStageTookTheHandover) {
  const Tensor output = floats({0, 0});
  const auto call_with = [&](bool takes_part) {
    server.models["stage"] = [&, takes_part](NestedRequest& request) {
      Context own(backend_for(Device{}), 1);
      Handover* found = Handover::find(output);
      EXPECT_NE(found, nullptr);
      if (takes_part) {
        found->take_part(own);
        found->answer(std::make_shared<StageFence>());
      }
      request.answer({answer_of("noise_pred", {1, 2})});
      request.release();
    };
    NestedCall call(&server, "stage", "", ctx);
    call.expect_output("noise_pred", output);
    call.hand_over(output, nullptr);
    call.start();
    call.wait(kGoOn);
    return call.handed_over();
  };
  EXPECT_TRUE(call_with(true));
  EXPECT_FALSE(call_with(false));
  EXPECT_EQ(Handover::find(output), nullptr);
}

}  // namespace
}  // namespace flux::triton
