// Requests of clients: what is read, what is written, and that each is answered and released once.
#include "triton/request.h"

#include <cstring>
#include <limits>

#include "fake_server.h"
#include "ops/registry.h"
#include "triton/errors.h"

namespace flux::triton {
namespace {

template <typename Value>
std::string bytes_of(std::initializer_list<Value> values) {
  std::string bytes(values.size() * sizeof(Value), '\0');
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

/// The wire's form of texts: each after its length.
std::string texts_of(std::initializer_list<std::string> texts) {
  std::string bytes;
  for (const std::string& text : texts) {
    bytes += bytes_of({static_cast<uint32_t>(text.size())}) + text;
  }
  return bytes;
}

class RequestTest : public FakeServerTest {
 protected:
  /// What `read` throws for a request with these inputs.
  std::string refusal(std::list<Input> inputs, const std::function<void(Request&)>& read) {
    BackendRequest sent{.inputs = std::move(inputs)};
    Request request(&sent);
    std::string text = "nothing";
    try {
      request.read(ctx);
      read(request);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
      text = error.what();
    }
    request.send_error(&instance, Error(ErrorCode::kCancelled, "the end of the test"), 0);
    return text;
  }

  void expect_answer(const BackendRequest& sent, ErrorCode code, const std::string& text) {
    ASSERT_EQ(sent.answers.size(), 1U);
    EXPECT_TRUE(sent.answers[0].final);
    EXPECT_EQ(sent.answers[0].error, text);
    const std::unique_ptr<ServerError> expected(to_server_error(Error(code, "")));
    EXPECT_EQ(sent.answers[0].code, expected->code);
    EXPECT_EQ(sent.releases, 1);
  }

  void answer(Request& request) { request.send(&instance, 0, 0, 0); }

  Model model{.name = "model"};
  Instance instance{.model = &model};
  Context ctx{backend_for(Device{}), 1};
};

TEST_F(RequestTest, ReadsTensorsWhereTheyAre) {
  BackendRequest sent{
      .inputs = {{"f32", DataType::kFp32, {2, 3}, {bytes_of<float>({1, 2, 3, 4, 5, 6})}},
                 {"bf16", DataType::kBf16, {2, 1}, {bytes_of<uint16_t>({7, 8})}},
                 {"f16", DataType::kFp16, {2, 1}, {bytes_of<uint16_t>({9, 10})}}}};
  Request request(&sent);
  request.read(ctx);
  EXPECT_EQ(request.rows(), 2);
  const int64_t sizes[] = {3};
  const ConstTensor f32 = request.tensor("f32", DType::kF32, sizes);
  EXPECT_EQ(f32.raw(), sent.inputs.front().memory[0].data());
  EXPECT_EQ(f32.shape(), (Shape{2, 3}));
  EXPECT_EQ(f32.data<float>()[5], 6);
  const int64_t free_size[] = {-1};
  EXPECT_EQ(request.tensor("bf16", DType::kBF16, free_size).data<uint16_t>()[1], 8);
  EXPECT_EQ(request.tensor("f16", DType::kF16, free_size).data<uint16_t>()[0], 9);
  EXPECT_EQ(request.copied_bytes(), 0);
  answer(request);
}

TEST_F(RequestTest, CopiesWhatIsInPiecesOrUneven) {
  const std::string values = bytes_of<float>({1, 2, 3});
  BackendRequest sent{
      .inputs = {{"pieces", DataType::kFp32, {1, 3}, {values.substr(0, 5), "", values.substr(5)}},
                 {"uneven", DataType::kFp32, {1, 3}, {values}, 2}}};
  Request request(&sent);
  request.read(ctx);
  const int64_t sizes[] = {3};
  EXPECT_EQ(request.tensor("pieces", DType::kF32, sizes).data<float>()[2], 3);
  EXPECT_EQ(request.copied_bytes(), 12);
  EXPECT_EQ(request.tensor("uneven", DType::kF32, sizes).data<float>()[0], 1);
  EXPECT_EQ(request.copied_bytes(), 24);
  answer(request);
}

TEST_F(RequestTest, ReadsOneValueARow) {
  BackendRequest sent{
      .inputs = {{"prompt", DataType::kBytes, {2, 1}, {texts_of({"a cat", ""})}},
                 {"cut", DataType::kBytes, {2, 1}, {"\x01", std::string("\0\0\0x\0\0\0\0", 8)}},
                 {"seed", DataType::kInt64, {2, 1}, {bytes_of<int64_t>({-1, int64_t{1} << 40})}},
                 {"steps", DataType::kInt32, {2, 1}, {bytes_of<int32_t>({-5, 28})}},
                 {"guidance", DataType::kFp32, {2, 1}, {bytes_of<float>({3.5F, 0})}}}};
  Request request(&sent);
  request.read(ctx);
  EXPECT_TRUE(request.has_input("prompt"));
  EXPECT_FALSE(request.has_input("prompt_2"));
  EXPECT_EQ(request.strings("prompt"), (std::vector<std::string>{"a cat", ""}));
  EXPECT_EQ(request.strings("cut"), (std::vector<std::string>{"x", ""}));
  EXPECT_EQ(request.integers("seed"), (std::vector<int64_t>{-1, int64_t{1} << 40}));
  EXPECT_EQ(request.integers("steps"), (std::vector<int64_t>{-5, 28}));
  EXPECT_EQ(request.numbers("guidance"), (std::vector<double>{3.5, 0}));
  answer(request);
}

TEST_F(RequestTest, RefusesInputsThatDisagree) {
  const auto nothing = [](Request&) {};
  const Input one{"a", DataType::kFp32, {1, 1}, {bytes_of<float>({1})}};
  const Input two{"b", DataType::kFp32, {2, 1}, {bytes_of<float>({1, 2})}};
  EXPECT_EQ(refusal({one, two}, nothing),
            "b has 2 rows: another input has 1; all need one batch size");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {0, 1}, {""}}}, nothing),
            "a has shape [0, 1]: it holds no row");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {}, {""}}}, nothing),
            "a has shape []: it holds no row");
}

TEST_F(RequestTest, RefusesTensorsOfAnotherTypeShapeOrSize) {
  const auto tensor = [](DType dtype, std::vector<int64_t> sizes) {
    return [dtype, sizes](Request& request) { request.tensor("a", dtype, sizes); };
  };
  const Input a{"a", DataType::kFp32, {1, 2}, {bytes_of<float>({1, 2})}};
  EXPECT_EQ(refusal({}, tensor(DType::kF32, {2})), "a is missing: it is required");
  EXPECT_EQ(refusal({a}, tensor(DType::kBF16, {2})), "a is FP32: must be BF16");
  EXPECT_EQ(refusal({a}, tensor(DType::kF32, {3})), "a has shape [1, 2]: must be [rows, 3]");
  EXPECT_EQ(refusal({a}, tensor(DType::kF32, {-1, 2})),
            "a has shape [1, 2]: must be [rows, -1, 2]");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 0}, {""}}}, tensor(DType::kF32, {-1})),
            "a has shape [1, 0]: must be [rows, -1]");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 1, 1, 1, 1, 1}, {bytes_of<float>({1})}}},
                    tensor(DType::kF32, {1, 1, 1, 1, 1})),
            "a has shape [1, 1, 1, 1, 1, 1]: must be [rows, 1, 1, 1, 1, 1]");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 2}, {"abc"}}}, tensor(DType::kF32, {2})),
            "a has 3 bytes: its shape [1, 2] takes 8");
}

TEST_F(RequestTest, RefusesRowsOfAnotherForm) {
  const auto strings = [](Request& request) { request.strings("a"); };
  const auto integers = [](Request& request) { request.integers("a"); };
  const auto numbers = [](Request& request) { request.numbers("a"); };
  const std::string one = bytes_of<float>({1});
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 1}, {one}}}, strings), "a is FP32: must be BYTES");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 1}, {one}}}, integers),
            "a is FP32: must be INT32 or INT64");
  EXPECT_EQ(refusal({{"a", DataType::kInt32, {1, 1}, {one}}}, numbers), "a is INT32: must be FP32");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 1, 1}, {one}}}, numbers),
            "a has shape [1, 1, 1]: must be [rows, 1]");
  EXPECT_EQ(refusal({{"a", DataType::kFp32, {1, 1}, {"abc"}}}, numbers),
            "a has 3 bytes: 1 rows take 4");
  EXPECT_EQ(refusal({{"a", DataType::kInt64, {1, 1}, {one}}}, integers),
            "a has 4 bytes: 1 rows take 8");
  EXPECT_EQ(refusal({{"a", DataType::kBytes, {1, 1}, {"abc"}}}, strings),
            "a ends within the length of row 0");
  EXPECT_EQ(refusal({{"a", DataType::kBytes, {1, 1}, {bytes_of<uint32_t>({5}) + "cat"}}}, strings),
            "a row 0 says it has 5 bytes: 3 follow");
}

TEST_F(RequestTest, ReadsParametersOfEveryType) {
  BackendRequest sent{
      .parameters = {
          {"text", std::string("a")}, {"integer", int64_t{7}}, {"flag", true}, {"number", 0.5}}};
  Request request(&sent);
  request.read(ctx);
  EXPECT_EQ(request.parameter("text"), nlohmann::json("a"));
  EXPECT_EQ(request.parameter("integer"), nlohmann::json(7));
  EXPECT_EQ(request.parameter("flag"), nlohmann::json(true));
  EXPECT_EQ(request.parameter("number"), nlohmann::json(0.5));
  EXPECT_EQ(request.parameter("other"), std::nullopt);
  answer(request);
}

TEST_F(RequestTest, StopsWhenItIsCancelledOrLate) {
  BackendRequest sent{.timeout_us = 3'600'000'000};
  Request request(&sent);
  EXPECT_FALSE(request.stopped());
  EXPECT_GT(request.remaining_us().value_or(0), 3'000'000'000U);
  sent.cancelled = true;
  EXPECT_TRUE(request.stopped());
  EXPECT_FALSE(request.deadline_passed());
  answer(request);

  BackendRequest short_one{.timeout_us = 1};
  Request late(&short_one);
  while (!late.deadline_passed()) std::this_thread::yield();
  EXPECT_TRUE(late.stopped());
  EXPECT_EQ(late.remaining_us(), 1U) << "zero would be no limit";
  answer(late);

  BackendRequest patient;
  Request forever(&patient);
  EXPECT_EQ(forever.remaining_us(), std::nullopt);
  answer(forever);
}

TEST_F(RequestTest, TakesATimeoutFromTheParameters) {
  BackendRequest sent{.parameters = {{"timeout", int64_t{1}}}};
  Request request(&sent);
  request.read(ctx);
  while (!request.deadline_passed()) std::this_thread::yield();
  answer(request);
  for (const ParameterValue& wrong : {ParameterValue(int64_t{0}), ParameterValue(0.5),
                                      ParameterValue(std::numeric_limits<int64_t>::max())}) {
    BackendRequest refused{.parameters = {{"timeout", wrong}}};
    Request reading(&refused);
    EXPECT_THROW(reading.read(ctx), Error);
    answer(reading);
  }
}

TEST_F(RequestTest, WritesOutputsWhereTheServerWantsThem) {
  BackendRequest sent{.wanted = {"image"}};
  Request request(&sent);
  request.read(ctx);
  EXPECT_TRUE(request.wants_output("image"));
  EXPECT_FALSE(request.wants_output("seed"));
  const Tensor image = request.output("image", DType::kF32, {1, 2});
  image.data<float>()[0] = 1;
  image.data<float>()[1] = 2;
  request.host_output("seed", DType::kI64, {1, 1}).data<int64_t>()[0] = 42;
  request.output_strings("files", {"png", ""}, 1);
  request.set_flag("truncated");
  request.set_parameter("truncated_by", "clip");
  request.finish_outputs();
  EXPECT_FALSE(request.can_hand_over());
  answer(request);
  ASSERT_EQ(sent.answers.size(), 1U);
  const BackendRequest::Answer& got = sent.answers[0];
  EXPECT_EQ(got.error, "");
  EXPECT_TRUE(got.final);
  EXPECT_EQ(got.flags, std::vector<std::string>{"truncated"});
  EXPECT_EQ(got.texts, (std::map<std::string, std::string>{{"truncated_by", "clip"}}));
  ASSERT_EQ(got.outputs.size(), 3U);
  const Output& first = got.outputs.front();
  EXPECT_EQ(first.name, "image");
  EXPECT_EQ(first.type, DataType::kFp32);
  EXPECT_EQ(first.shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(first.bytes, bytes_of<float>({1, 2}));
  EXPECT_EQ(std::next(got.outputs.begin())->bytes, bytes_of<int64_t>({42}));
  EXPECT_EQ(got.outputs.back().bytes, texts_of({"png", ""}));
  EXPECT_EQ(got.outputs.back().shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(sent.releases, 1);
  EXPECT_EQ(sent.reports, std::vector<bool>{true});
}

TEST_F(RequestTest, WritesElsewhereWhatTheServerWantsAtAnUnevenAddress) {
  BackendRequest sent{.output_offset = 1};
  Request request(&sent);
  request.read(ctx);
  request.output("image", DType::kF32, {1, 1}).data<float>()[0] = 7;
  request.host_output("seed", DType::kI64, {1, 1}).data<int64_t>()[0] = 42;
  request.finish_outputs();
  answer(request);
  ASSERT_EQ(sent.answers.size(), 1U);
  EXPECT_EQ(sent.answers[0].outputs.front().bytes, bytes_of<float>({7}));
  EXPECT_EQ(sent.answers[0].outputs.back().bytes, bytes_of<int64_t>({42}));
}

TEST_F(RequestTest, RefusesAnOutputThatIsWantedOnAGpuThatIsNotThere) {
  BackendRequest sent{.output_memory = MemoryType::kGpu, .output_device = 99};
  Request request(&sent);
  request.read(ctx);
  request.output("image", DType::kF32, {1, 1}).data<float>()[0] = 7;
  try {
    request.finish_outputs();
    ADD_FAILURE();
  } catch (const Error& error) {
    request.send_error(&instance, error, 0);
  }
  EXPECT_TRUE(sent.answers[0].outputs.empty()) << "an error carries no outputs";
}

TEST_F(RequestTest, OfADecoupledModelHasAnswersBeforeTheLast) {
  BackendRequest sent;
  Request request(&sent);
  request.read(ctx);
  for (int step = 0; step < 2; ++step) {
    Response part = request.part(ctx);
    part.host_output("step", DType::kI32, {1, 1}).data<int32_t>()[0] = step;
    part.set_parameter("queue_position", int64_t{3});
    part.set_parameter("estimated_seconds", 1.5);
    part.send_part();
  }
  request.host_output("step", DType::kI32, {1, 1}).data<int32_t>()[0] = 2;
  request.finish_outputs();
  answer(request);
  ASSERT_EQ(sent.answers.size(), 3U);
  for (int32_t step = 0; step < 3; ++step) {
    const BackendRequest::Answer& given = sent.answers[static_cast<size_t>(step)];
    EXPECT_EQ(given.final, step == 2);
    EXPECT_EQ(given.outputs.front().bytes, bytes_of({step}));
    EXPECT_EQ(given.numbers.size(), step == 2 ? 0U : 2U);
  }
  EXPECT_EQ(sent.answers[0].numbers["queue_position"], 3);
  EXPECT_EQ(sent.answers[0].numbers["estimated_seconds"], 1.5);
  EXPECT_EQ(sent.releases, 1);
}

TEST_F(RequestTest, AnAnswerThatCannotBeSentIsAnErrorAndOneThatIsNotSentIsDropped) {
  BackendRequest sent;
  Request request(&sent);
  request.read(ctx);
  {
    Response dropped = request.part(ctx);
    dropped.host_output("step", DType::kI32, {1, 1});
  }
  world().fail_next("TRITONBACKEND_ResponseSend", ServerErrorCode::kInternal, "gone");
  EXPECT_THROW(request.part(ctx).send_part(), Error);
  request.send_error(&instance, Error(ErrorCode::kInternal, "the end"), 0);
  ASSERT_EQ(sent.answers.size(), 2U);
  EXPECT_FALSE(sent.answers[0].final);
  EXPECT_EQ(sent.answers[1].error, "the end");
  EXPECT_EQ(sent.releases, 1);
}

TEST_F(RequestTest, IsAnsweredWithAnErrorOnce) {
  BackendRequest sent;
  {
    Request request(&sent);
    request.read(ctx);
    request.output("image", DType::kF32, {1, 1});
    request.send_error(&instance, Error(ErrorCode::kNotFound, "no file"), 0);
  }
  expect_answer(sent, ErrorCode::kNotFound, "no file");
  EXPECT_TRUE(sent.answers[0].outputs.empty());
  EXPECT_EQ(sent.reports, std::vector<bool>{false});
}

TEST_F(RequestTest, ThatIsDroppedIsAnsweredAllTheSame) {
  BackendRequest sent;
  { const Request request(&sent); }
  expect_answer(sent, ErrorCode::kInternal, "the request was dropped");
  EXPECT_TRUE(sent.reports.empty()) << "no instance has worked on it";
}

TEST_F(RequestTest, WithoutAnOutputIsAnswered) {
  BackendRequest sent;
  {
    Request request(&sent);
    request.read(ctx);
    answer(request);
  }
  ASSERT_EQ(sent.answers.size(), 1U);
  EXPECT_EQ(sent.answers[0].error, "");
  EXPECT_EQ(sent.releases, 1);
}

TEST_F(RequestTest, WhoseResponseCannotBeMadeIsAnsweredWithAnError) {
  BackendRequest sent;
  {
    Request request(&sent);
    world().fail_next("TRITONBACKEND_ResponseNew", ServerErrorCode::kInternal, "no response today");
    answer(request);
    EXPECT_EQ(sent.releases, 0);
  }
  expect_answer(sent, ErrorCode::kInternal, "the request was dropped");
  EXPECT_NE(world().log().find("answering a request: no response today"), std::string::npos);
}

TEST_F(RequestTest, WhoseErrorCannotBeAnsweredIsReleased) {
  BackendRequest sent;
  {
    Request request(&sent);
    world().fail_next("TRITONBACKEND_ResponseNew", ServerErrorCode::kInternal, "no response today");
    request.send_error(&instance, Error(ErrorCode::kNotFound, "no file"), 0);
  }
  EXPECT_TRUE(sent.answers.empty());
  EXPECT_EQ(sent.releases, 1);
  EXPECT_NE(world().log().find("creating an error response: no response today"), std::string::npos);
}

TEST_F(RequestTest, WhoseResponseCannotBeSentIsReleased) {
  BackendRequest sent;
  {
    Request request(&sent);
    world().fail_next("TRITONBACKEND_ResponseSend", ServerErrorCode::kInternal, "the client left");
    answer(request);
  }
  EXPECT_EQ(sent.releases, 1);
  EXPECT_NE(world().log().find("sending a response: the client left"), std::string::npos);
}

TEST_F(RequestTest, ThrowsWhenTheServerGivesNoMemoryForAnOutput) {
  BackendRequest sent;
  Request request(&sent);
  request.read(ctx);
  world().fail_next("TRITONBACKEND_OutputBuffer", ServerErrorCode::kUnavailable, "out of memory");
  try {
    request.output("image", DType::kF32, {1, 1});
    ADD_FAILURE();
  } catch (const Error& error) {
    request.send_error(&instance, error, 0);
  }
  expect_answer(sent, ErrorCode::kUnavailable, "out of memory");
}

TEST_F(RequestTest, GoesOnWithoutWhatTheServerDoesNotTell) {
  BackendRequest sent;
  world().fail_next("TRITONBACKEND_InferenceRequestTimeoutMicroseconds", ServerErrorCode::kInternal,
                    "no timeout");
  Request request(&sent);
  world().fail_next("TRITONBACKEND_RequestIsCancelled", ServerErrorCode::kInternal, "no flag");
  EXPECT_FALSE(request.stopped());
  world().fail_next("TRITONBACKEND_RequestId", ServerErrorCode::kInternal, "no id");
  request.id();
  answer(request);
}

}  // namespace
}  // namespace flux::triton
