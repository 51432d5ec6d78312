// The C boundary: exceptions become the server's errors and back, and nothing is thrown through it.
#include "triton/errors.h"

#include <new>
#include <stdexcept>

#include "fake_server.h"

namespace flux::triton {
namespace {

using ErrorsTest = FakeServerTest;

TEST_F(ErrorsTest, CodesGoToTheServerAndBack) {
  for (const ErrorCode code :
       {ErrorCode::kInvalidArgument, ErrorCode::kNotFound, ErrorCode::kUnavailable,
        ErrorCode::kCancelled, ErrorCode::kUnsupported, ErrorCode::kInternal}) {
    try {
      check_ok(to_server_error(Error(code, "why")));
      FAIL() << to_string(code);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code);
      EXPECT_STREQ(error.what(), "why");
    }
  }
}

TEST_F(ErrorsTest, OfTheServerNameTheCallThatFailed) {
  check_ok(nullptr);
  try {
    check_ok(new ServerError(ServerErrorCode::kUnknown, "the server's"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInternal);
    EXPECT_STREQ(error.where().file, "tests/triton/errors_test.cc");
  }
}

TEST_F(ErrorsTest, GuardTurnsEveryExceptionIntoAnError) {
  const auto error_of = [](auto work) {
    const std::unique_ptr<ServerError> error(guard(work));
    return error == nullptr ? std::pair{ServerErrorCode::kUnknown, std::string("none")}
                            : std::pair{error->code, error->text};
  };
  using Expected = std::pair<ServerErrorCode, std::string>;
  EXPECT_EQ(error_of([] {}), Expected(ServerErrorCode::kUnknown, "none"));
  EXPECT_EQ(error_of([] { fail(ErrorCode::kNotFound, "no file {}", 3); }),
            Expected(ServerErrorCode::kNotFound, "no file 3"));
  EXPECT_EQ(error_of([] { throw std::bad_alloc(); }),
            Expected(ServerErrorCode::kUnavailable, "out of memory"));
  EXPECT_EQ(error_of([] { throw std::runtime_error("of a library"); }),
            Expected(ServerErrorCode::kInternal, "of a library"));
  EXPECT_EQ(error_of([] { throw 42; }),
            Expected(ServerErrorCode::kInternal, "an exception of an unknown type"));
}

TEST_F(ErrorsTest, DroppedErrorsAreLogged) {
  log_and_drop(nullptr, "nothing");
  log_and_drop(new ServerError(ServerErrorCode::kInternal, "it is gone"), "releasing a thing");
  EXPECT_NE(world().log().find("releasing a thing: it is gone\n"), std::string::npos);
  EXPECT_EQ(world().log().find("nothing"), std::string::npos);
}

TEST_F(ErrorsTest, ReportsSayWhereAnInternalErrorWasThrown) {
  const int line = __LINE__ + 1;
  EXPECT_EQ(
      report_of(Error(ErrorCode::kInternal, "a bug")),
      fmt::format("a bug (internal error at tests/triton/errors_test.cc:{}; please report it)",
                  line));
  EXPECT_EQ(report_of(Error(ErrorCode::kNotFound, "no file")), "no file");
  EXPECT_EQ(report_of(std::runtime_error("of a library")), "of a library");
}

}  // namespace
}  // namespace flux::triton
