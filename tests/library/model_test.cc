#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "flux/flux.h"

namespace flux::testing {
namespace {

namespace fs = std::filesystem;

Model open_model(const char* name = "tiny-dev") {
  ModelOptions options;
  options.device = "cpu";
  return Model::open(fs::path(FLUX_TEST_DATA) / "checkpoints" / name, options);
}

Request small_request(const char* prompt, int64_t seed) {
  Request request;
  request.prompt = prompt;
  request.seed = seed;
  request.num_inference_steps = 3;
  request.height = 32;
  request.width = 48;
  request.max_sequence_length = 16;
  return request;
}

/// The error that `call` throws; fails where it throws none.
Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return {ErrorCode::kInternal, ""};
}

TEST(Model, AnImageHasTheSameBytesAloneAndInCompany) {
  Model model = open_model();
  std::vector<Request> requests = {small_request("a red cat", 5), small_request("a dog", 9)};
  requests[0].num_images_per_prompt = 2;
  requests[1].height = 16;
  requests[1].num_inference_steps = 1;
  const Result together = model.generate(requests);
  ASSERT_EQ(together.images.size(), 3U);
  const size_t rows[] = {0, 0, 1};
  const int64_t seeds[] = {5, 6, 9};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(together.images[i].row, rows[i]);
    EXPECT_EQ(together.images[i].request.seed, seeds[i]);
    Request alone = requests[rows[i]];
    alone.seed = seeds[i];
    alone.num_images_per_prompt = 1;
    const Result result = model.generate({&alone, 1});
    EXPECT_EQ(result.images[0].pixels, together.images[i].pixels) << i;
  }
  EXPECT_TRUE(model.generate({}).images.empty());
}

TEST(Model, FillsTheGapsOfARequest) {
  const Model model = open_model();
  Request request;
  request.prompt = "a cat";
  const Request full = model.resolve(request);
  EXPECT_EQ(full.prompt_2, "a cat");
  EXPECT_EQ(full.negative_prompt, std::nullopt);
  EXPECT_EQ(full.num_inference_steps, 28);
  EXPECT_EQ(full.guidance_scale, 3.5);
  EXPECT_EQ(full.num_images_per_prompt, 1);
  EXPECT_EQ(full.max_sequence_length, 512);
  EXPECT_EQ(full.quality, 95);
  EXPECT_TRUE(full.seed.has_value());
  // Nothing is left to fill.
  const Request again = model.resolve(full);
  EXPECT_EQ(again.seed, full.seed);
  EXPECT_EQ(again.height, full.height);
  request.height = 30;
  const Error error = error_of([&] { model.resolve(request); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_TRUE(std::string(error.what()).starts_with("height is 30: must be")) << error.what();
}

TEST(Model, AnObserverSeesAllAndChangesNothing) {
  Model model = open_model();
  const std::vector<Request> requests = {small_request("a cat", 1), small_request("a dog", 2)};
  const Result silent = model.generate(requests);
  std::vector<std::string> seen;
  const fs::path file =
      fs::temp_directory_path() / ("preview-" + std::to_string(::getpid()) + ".png");
  Observer observer;
  observer.on_phase = [&](std::string_view phase) { seen.emplace_back(phase); };
  observer.on_step = [&](int done, int total) {
    seen.push_back("step " + std::to_string(done) + "/" + std::to_string(total));
  };
  observer.preview_every = 2;
  observer.on_preview = [&](const Preview& preview) {
    seen.push_back("preview " + std::to_string(preview.image));
    EXPECT_EQ(preview.height, 16);
    EXPECT_EQ(preview.width, 24);
    EXPECT_EQ(preview.pixels.size(), 16U * 24 * 3);
    preview.write(file);
  };
  observer.on_image = [&](const Image& image) {
    seen.push_back("image " + std::to_string(image.row));
  };
  observer.cancelled = [] { return false; };
  const Result watched = model.generate(requests, observer);
  const std::vector<std::string> expected = {
      "encoding the prompt", "step 0/3", "step 1/3", "step 2/3", "preview 0",
      "preview 1",           "step 3/3", "image 0",  "image 1"};
  EXPECT_EQ(seen, expected);
  EXPECT_GT(fs::file_size(file), 0U);
  fs::remove(file);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(watched.images[i].pixels, silent.images[i].pixels);
}

TEST(Model, WhatAnObserverThrowsReachesTheCallerAsItIs) {
  Model model = open_model();
  const Request request = small_request("a cat", 1);
  const Result before = model.generate({&request, 1});
  Observer step;
  step.on_step = [](int, int) { throw 42; };
  EXPECT_THROW(model.generate({&request, 1}, step), int);
  Observer phase;
  phase.on_phase = [](std::string_view) { throw std::bad_alloc(); };
  EXPECT_THROW(model.generate({&request, 1}, phase), std::bad_alloc);
  Observer cancelled;
  cancelled.cancelled = []() -> bool { throw std::logic_error("mine"); };
  EXPECT_THROW(model.generate({&request, 1}, cancelled), std::logic_error);
  Observer image;
  image.on_image = [](const Image&) { throw Error(ErrorCode::kUnavailable, "mine"); };
  EXPECT_STREQ(error_of([&] { model.generate({&request, 1}, image); }).what(), "mine");
  // The model is as good as before.
  EXPECT_EQ(model.generate({&request, 1}).images[0].pixels, before.images[0].pixels);
}

TEST(Model, EndsWhenItIsCancelled) {
  Model model = open_model();
  const Request request = small_request("a cat", 1);
  int steps = 0;
  Observer observer;
  observer.on_step = [&](int done, int) { steps = done; };
  observer.cancelled = [&] { return steps == 1; };
  const Error error = error_of([&] { model.generate({&request, 1}, observer); });
  EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  EXPECT_STREQ(error.what(), "cancelled after step 1 of 3");
  observer.cancelled = [] { return true; };
  EXPECT_EQ(error_of([&] { open_model().load(observer); }).code(), ErrorCode::kCancelled);
}

TEST(Model, CallsFromSeveralThreadsTakeTurns) {
  Model model = open_model();
  std::vector<Result> results(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < results.size(); ++i) {
    threads.emplace_back([&, i] {
      const Request request = small_request("a cat", static_cast<int64_t>(i % 2));
      results[i] = model.generate({&request, 1});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(results[0].images[0].pixels, results[2].images[0].pixels);
  EXPECT_EQ(results[1].images[0].pixels, results[3].images[0].pixels);
  EXPECT_NE(results[0].images[0].pixels, results[1].images[0].pixels);
}

TEST(Model, RefusesWhatItCannotOpen) {
  EXPECT_EQ(error_of([] { Model::open("/no/such/folder"); }).code(), ErrorCode::kNotFound);
  ModelOptions options;
  options.threads = -1;
  EXPECT_STREQ(error_of([&] { check_options(options); }).what(),
               "threads is -1: must be 0 (one for each physical core) to 1024");
  options = {};
  options.dtype = "int4";
  EXPECT_EQ(error_of([&] { check_options(options); }).code(), ErrorCode::kInvalidArgument);
}

TEST(Latents, StartALoopWhereTheyAreFrom) {
  Model model = open_model();
  Request request = small_request("a cat", 3);
  request.num_images_per_prompt = 2;
  const fs::path file = fs::path(::testing::TempDir()) / "latents.safetensors";
  const Result first = model.generate({&request, 1});
  Latents::write(file, std::vector{first.images[0].latents, first.images[1].latents});
  const std::vector<Latents> latents = Latents::read(file);
  ASSERT_EQ(latents.size(), 2U);
  EXPECT_EQ(latents[0].tokens(), 6);
  const Result both = model.generate({&request, 1}, {}, latents);
  EXPECT_EQ(both.images[0].request.seed, std::nullopt);
  request.num_images_per_prompt = 1;
  const Result second = model.generate({&request, 1}, {}, std::span(latents).subspan(1));
  EXPECT_EQ(second.images[0].pixels, both.images[1].pixels);
  EXPECT_STREQ(error_of([&] {
                 model.generate({&request, 1}, {}, latents);
               }).what(),
               "2 latents are given for 1 images: one for each is expected");
  request.width = 32;
  const Error error = error_of([&] {
    model.generate({&request, 1}, {}, std::span(latents).subspan(1));
  });
  EXPECT_STREQ(
      error.what(),
      "the latents of image 0 are [6, 24]: [4, 24] is expected, image tokens x channels of "
      "32x32");
  EXPECT_EQ(error_of([&] { Latents::write(file, {}); }).code(), ErrorCode::kInvalidArgument);
  EXPECT_EQ(error_of([] { Latents::read("/no/such/file"); }).code(), ErrorCode::kNotFound);
  fs::remove(file);
}

TEST(Image, OfWrongSizesIsRefused) {
  Image image;
  image.height = 2;
  image.width = 2;
  image.pixels.resize(11);
  EXPECT_EQ(error_of([&] { image.encode(ImageFormat::kPng); }).code(), ErrorCode::kInvalidArgument);
  image.pixels.resize(12);
  EXPECT_TRUE(image.encode(ImageFormat::kPng).starts_with("\x89PNG"));
  image.request.quality = 0;
  EXPECT_EQ(error_of([&] { image.encode(ImageFormat::kJpeg); }).code(),
            ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace flux::testing
