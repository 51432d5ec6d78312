// What every model has: refusals, the entry points that the server calls, statistics.
#include "triton/served_model.h"

#include <stdexcept>

#include "fake_server.h"
#include "support/error.h"
#include "triton/instance_state.h"

namespace flux::triton {
namespace {

/// A model that fails for requests as their ids say, and answers all others.
class TestModel final : public ServedModel {
 public:
  using ServedModel::ServedModel;

  void execute(InstanceState& instance,
               std::span<const std::unique_ptr<Request>> requests) const override {
    int64_t rows = 0;
    for (const auto& request : requests) {
      if (request->id() == "batch") fail(ErrorCode::kInternal, "the batch cannot be executed");
      try {
        request->read(instance.context());
        if (request->id() == "cancelled")
          fail(ErrorCode::kCancelled, "cancelled after step 1 of 2");
        if (request->id() == "bug") fail(ErrorCode::kInternal, "a bug");
        if (request->id() == "library") throw std::runtime_error("of a library");
        request->send(instance.handle(), 0, 0, 0);
        ++rows;
      } catch (const Error& error) {
        refuse(instance.handle(), *request, error, 0);
      } catch (...) {
        refuse(instance.handle(), *request, std::current_exception(), 0);
      }
    }
    report_batch(instance.handle(), rows, 0, 0, 0);
  }
};

class ServedModelTest : public FakeServerTest {
 protected:
  ServedModelTest() {
    ModelSettings settings;
    settings.name = "vae_decoder";
    settings.metrics = std::make_shared<Metrics>(settings.name);
    state = std::make_unique<InstanceState>(&instance, std::make_shared<TestModel>(settings));
    instance.state = state.get();
  }

  void execute(std::initializer_list<BackendRequest*> requests) {
    std::vector<BackendRequest*> batch(requests);
    EXPECT_EQ(TRITONBACKEND_ModelInstanceExecute(&instance, batch.data(),
                                                 static_cast<uint32_t>(batch.size())),
              nullptr);
  }

  static void expect_refused(const BackendRequest& sent, ServerErrorCode code,
                             const std::string& text) {
    ASSERT_EQ(sent.answers.size(), 1U);
    EXPECT_EQ(sent.answers[0].code, code);
    EXPECT_EQ(sent.answers[0].error, text);
    EXPECT_EQ(sent.releases, 1);
    EXPECT_EQ(sent.reports, std::vector<bool>{false});
  }

  static bool logged(const std::string& text) {
    return world().log().find(text) != std::string::npos;
  }

  Model model{.name = "vae_decoder"};
  Instance instance{.model = &model};
  std::unique_ptr<InstanceState> state;
};

TEST_F(ServedModelTest, AnswersEachRequestOfABatchOnItsOwn) {
  BackendRequest good{.id = "good"};
  BackendRequest library{.id = "library"};
  BackendRequest other{.id = "other"};
  execute({&good, &library, &other});
  for (const BackendRequest* sent : {&good, &other}) {
    ASSERT_EQ(sent->answers.size(), 1U);
    EXPECT_EQ(sent->answers[0].error, "");
    EXPECT_EQ(sent->releases, 1);
    EXPECT_EQ(sent->reports, std::vector<bool>{true});
  }
  expect_refused(library, ServerErrorCode::kInternal, "of a library");
  EXPECT_TRUE(logged("vae_decoder: request 'library': internal error: of a library\n"));
  EXPECT_EQ(instance.batches, std::vector<uint64_t>{2});
}

TEST_F(ServedModelTest, LogsWhereAnInternalErrorWasThrownButDoesNotTellClients) {
  BackendRequest sent{.id = "bug"};
  execute({&sent});
  expect_refused(sent, ServerErrorCode::kInternal, "a bug");
  EXPECT_TRUE(
      logged("vae_decoder: request 'bug': internal error: a bug (internal error at "
             "tests/triton/served_model_test.cc:"));
}

TEST_F(ServedModelTest, TellsADeadlineFromACancellation) {
  BackendRequest cancelled{.id = "cancelled"};
  execute({&cancelled});
  expect_refused(cancelled, ServerErrorCode::kCancelled, "cancelled after step 1 of 2");
  BackendRequest late{.id = "cancelled", .timeout_us = 1};
  execute({&late});
  expect_refused(late, ServerErrorCode::kUnavailable,
                 "the request's timeout passed: cancelled after step 1 of 2");
}

TEST_F(ServedModelTest, AnswersRequestsOfABatchThatCannotBeExecuted) {
  BackendRequest first{.id = "first"};
  BackendRequest second{.id = "batch"};
  execute({&first, &second});
  EXPECT_EQ(first.answers.size(), 1U);
  EXPECT_EQ(first.answers[0].error, "");
  ASSERT_EQ(second.answers.size(), 1U);
  EXPECT_EQ(second.answers[0].error, "the request was dropped");
  EXPECT_EQ(second.releases, 1);
  EXPECT_TRUE(logged("executing a batch: the batch cannot be executed"));
}

TEST_F(ServedModelTest, AnswersRequestsOfAnInstanceThatTheServerDoesNotKnow) {
  world().fail_next("TRITONBACKEND_ModelInstanceState", ServerErrorCode::kInternal, "no instance");
  BackendRequest sent;
  execute({&sent});
  ASSERT_EQ(sent.answers.size(), 1U);
  EXPECT_EQ(sent.answers[0].error, "the request was dropped");
  EXPECT_EQ(sent.releases, 1);
}

using LoadTest = FakeServerTest;

TEST_F(LoadTest, LogsWhereAnInternalErrorWasThrown) {
  Model model{.name = "vae_decoder"};
  world().fail_next("TRITONBACKEND_ModelName", ServerErrorCode::kInternal, "no name");
  const std::unique_ptr<ServerError> error(TRITONBACKEND_ModelInitialize(&model));
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->text, "no name");
  EXPECT_NE(world().log().find("no name (internal error at triton/model_settings.cc:"),
            std::string::npos);
  EXPECT_EQ(TRITONBACKEND_ModelFinalize(&model), nullptr) << "there is no state";
}

TEST_F(LoadTest, SaysWhatIsMissing) {
  Model model{.name = "vae_decoder", .repository = "nowhere", .config = "{}"};
  const auto initialize = [&] {
    const std::unique_ptr<ServerError> error(TRITONBACKEND_ModelInitialize(&model));
    return error == nullptr ? "" : error->text;
  };
  EXPECT_EQ(initialize(),
            "model 'vae_decoder': config.pbtxt has no parameter 'dtype'; make the repository again "
            "with flux-triton convert");
  EXPECT_EQ(world().log().find("internal error"), std::string::npos);

  model.config = R"({"parameters": {"dtype": {"string_value": "f32"},
                                    "device": {"string_value": "cpu"}}})";
  EXPECT_EQ(initialize(), "");
  Instance instance{.model = &model};
  const std::unique_ptr<ServerError> missing(TRITONBACKEND_ModelInstanceInitialize(&instance));
  ASSERT_NE(missing, nullptr);
  EXPECT_EQ(missing->code, ServerErrorCode::kNotFound);
  EXPECT_NE(missing->text.find("nowhere/1/vae/config.json"), std::string::npos) << missing->text;
  EXPECT_EQ(instance.state, nullptr);

  instance.kind = InstanceKind::kGpu;
  const std::unique_ptr<ServerError> kind(TRITONBACKEND_ModelInstanceInitialize(&instance));
  ASSERT_NE(kind, nullptr);
  EXPECT_EQ(kind->code, ServerErrorCode::kUnsupported);
  EXPECT_EQ(TRITONBACKEND_ModelFinalize(&model), nullptr);
}

}  // namespace
}  // namespace flux::triton
