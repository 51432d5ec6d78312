// Uploads through two buffers to a device whose copies are made by another thread, as a GPU's are.
#include "ops/cuda/upload_ring.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "support/error.h"

namespace flux::cuda {
namespace {

constexpr int64_t kBufferBytes = int64_t{4} << 20;  // more than a thread is worth

class SlowDevice final : public UploadDevice {
 public:
  SlowDevice() : stream_([this] { copy_in_turn(); }) {}
  ~SlowDevice() override {
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    stream_.join();
  }

  void prepare() override {
    for (std::vector<std::byte>& buffer : buffers_) {
      if (buffer.empty()) ++made_;
      buffer.resize(static_cast<size_t>(kBufferBytes));
    }
  }
  std::byte* buffer(size_t index) override { return buffers_[index].data(); }
  void wait_until_free(size_t index) override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_[index] == 0; });
  }
  void send(size_t index, std::byte* to, size_t bytes) override {
    const std::scoped_lock lock(mutex_);
    ++waiting_[index];
    copies_.push_back({index, to, bytes});
    changed_.notify_all();
  }
  void mark_done() override { ++marks_; }
  void release() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_[0] == 0 && waiting_[1] == 0; });
    for (std::vector<std::byte>& buffer : buffers_) buffer = {};
  }

  /// Waits for all copies.
  void finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_[0] == 0 && waiting_[1] == 0; });
  }
  int buffers_made() const { return made_; }
  int marks() const { return marks_; }

 private:
  struct Copy {
    size_t buffer;
    std::byte* to;
    size_t bytes;
  };

  void copy_in_turn() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return ending_ || !copies_.empty(); });
      if (copies_.empty()) return;
      const Copy copy = copies_.front();
      copies_.pop_front();
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::memcpy(copy.to, buffers_[copy.buffer].data(), copy.bytes);
      lock.lock();
      --waiting_[copy.buffer];
      changed_.notify_all();
    }
  }

  std::array<std::vector<std::byte>, UploadRing::kBuffers> buffers_;
  int made_ = 0;
  int marks_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Copy> copies_;
  std::array<int, UploadRing::kBuffers> waiting_{};
  bool ending_ = false;
  std::thread stream_;  // the last member: it uses the others
};

Tensor counting(int64_t count, int64_t first) {
  const Tensor tensor = Tensor::allocate({count}, DType::kF32);
  for (int64_t i = 0; i < count; ++i) {
    tensor.data<float>()[i] = static_cast<float>((first + i) % 8192);
  }
  return tensor;
}

bool same_values(const ConstTensor& found, const ConstTensor& expected) {
  const Tensor wanted = to_dtype(expected, found.dtype());
  return std::memcmp(found.raw(), wanted.raw(), static_cast<size_t>(wanted.bytes())) == 0;
}

TEST(UploadRing, BringsAllOfATensorInItsOrder) {
  SlowDevice device;
  UploadRing ring(device, kBufferBytes);
  constexpr int64_t kBuffer = kBufferBytes / 4;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t count : {int64_t{1}, kBuffer - 1, kBuffer, 3 * kBuffer + 5}) {
      const Tensor from = counting(count, count);
      const Tensor to = Tensor::allocate({count}, dtype);
      ring.upload(from, to, 3);
      device.finish();
      EXPECT_TRUE(same_values(to, from)) << name_of(dtype) << ", " << count;
    }
  }
  EXPECT_EQ(ring.count(), 8U);
  EXPECT_EQ(device.marks(), 8);
  EXPECT_EQ(device.buffers_made(), 2);
}

/// A file that its test removes.
class TemporaryFile {
 public:
  explicit TemporaryFile(const ConstTensor& content)
      : path_(std::filesystem::temp_directory_path() /
              ("upload_ring_test." + std::to_string(::getpid()))) {
    std::ofstream(path_, std::ios::binary)
        .write(content.data<char>(), static_cast<std::streamsize>(content.bytes()));
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  StoredTensor tensor(const ConstTensor& like) const {
    const auto file = FileBytes::open(path_);
    StoredTensor stored(ConstTensor(file->begin(), like.dtype(), like.shape()));
    stored.file = file;
    return stored;
  }

 private:
  std::filesystem::path path_;
};

TEST(UploadRing, ReadsFromFiles) {
  SlowDevice device;
  UploadRing ring(device, kBufferBytes);
  const Tensor content = counting(kBufferBytes / 4 * 3 + 5, 3);
  const TemporaryFile file(content);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor to = Tensor::allocate(content.shape(), dtype);
    ring.upload(file.tensor(content), to, 3);
    device.finish();
    EXPECT_TRUE(same_values(to, content)) << name_of(dtype);
  }
}

/// What waits for its copy is copied, and no more is, before the caller may free the memory.
TEST(UploadRing, EndsWhenItsFileBecameShorter) {
  SlowDevice device;
  UploadRing ring(device, kBufferBytes);
  const Tensor content = counting(kBufferBytes, 3);
  const TemporaryFile file(content);
  const StoredTensor stored = file.tensor(content);
  std::filesystem::resize_file(file.path(), kBufferBytes + 4);
  {
    const Tensor to = Tensor::allocate(content.shape(), DType::kF32);
    EXPECT_THROW(ring.upload(stored, to, 3), Error);
  }
  EXPECT_EQ(ring.count(), 0U);
  const Tensor to = Tensor::allocate(content.shape(), DType::kF32);
  ring.upload(content, to, 3);
  device.finish();
  EXPECT_TRUE(same_values(to, content));
}

TEST(UploadRing, TakesUploadsFromSeveralThreads) {
  SlowDevice device;
  UploadRing ring(device, kBufferBytes);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> loaders;
  for (int64_t loader = 0; loader < 3; ++loader) {
    loaders.emplace_back([&, loader] {
      for (int64_t weight = 0; weight < 4; ++weight) {
        const Tensor from = counting(kBufferBytes / 3, loader * 100 + weight);
        const Tensor to = Tensor::allocate(from.shape(), DType::kF32);
        const uint64_t before = ring.count();
        ring.upload(from, to, 2);
        if (ring.count() <= before) ++wrong;
        device.finish();
        if (!same_values(to, from)) ++wrong;
      }
    });
  }
  for (std::thread& loader : loaders) loader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(ring.count(), 12U);
}

TEST(UploadRing, ReleasesBuffersAfterTheirCopies) {
  SlowDevice device;
  UploadRing ring(device, kBufferBytes);
  const Tensor from = counting(1000, 7);
  const Tensor to = Tensor::allocate({1000}, DType::kF32);
  ring.upload(from, to, 1);
  ring.release();
  EXPECT_TRUE(same_values(to, from));
  ring.upload(from, to, 1);
  EXPECT_EQ(device.buffers_made(), 4);
  device.finish();
}

}  // namespace
}  // namespace flux::cuda
