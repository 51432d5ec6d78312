#include "weights/gguf.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "support/error.h"
#include "support/integer.h"
#include "support/utf8.h"

namespace flux {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxTensors = 1 << 17;
constexpr uint64_t kMaxEntries = 1 << 16;
constexpr uint64_t kMaxNameBytes = 1024;
constexpr uint64_t kMaxElements = uint64_t{1} << 48;
constexpr uint32_t kMaxDimensions = 4;  // of the format

/// ggml's types of tensors. Nothing of `encoding` and `dtype`: a type that is not read.
struct GgmlType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;
  std::optional<Encoding> encoding;
};
constexpr GgmlType kTypes[] = {
    {0, "F32", DType::kF32, {}},
    {1, "F16", DType::kF16, {}},
    {2, "Q4_0", {}, Encoding::kQ4_0},
    {3, "Q4_1", {}, Encoding::kQ4_1},
    {6, "Q5_0", {}, Encoding::kQ5_0},
    {7, "Q5_1", {}, Encoding::kQ5_1},
    {8, "Q8_0", {}, Encoding::kQ8_0},
    {9, "Q8_1", {}, {}},
    {10, "Q2_K", {}, Encoding::kQ2K},
    {11, "Q3_K", {}, Encoding::kQ3K},
    {12, "Q4_K", {}, Encoding::kQ4K},
    {13, "Q5_K", {}, Encoding::kQ5K},
    {14, "Q6_K", {}, Encoding::kQ6K},
    {15, "Q8_K", {}, {}},
    {16, "IQ2_XXS", {}, {}},
    {17, "IQ2_XS", {}, {}},
    {18, "IQ3_XXS", {}, {}},
    {19, "IQ1_S", {}, {}},
    {20, "IQ4_NL", {}, {}},
    {21, "IQ3_S", {}, {}},
    {22, "IQ2_S", {}, {}},
    {23, "IQ4_XS", {}, {}},
    {24, "I8", DType::kI8, {}},
    {25, "I16", DType::kI16, {}},
    {26, "I32", DType::kI32, {}},
    {27, "I64", DType::kI64, {}},
    {28, "F64", DType::kF64, {}},
    {29, "IQ1_M", {}, {}},
    {30, "BF16", DType::kBF16, {}},
    {34, "TQ1_0", {}, {}},
    {35, "TQ2_0", {}, {}},
    {39, "MXFP4", {}, {}},
    {40, "NVFP4", {}, {}},
};
constexpr const char* kReadable = "F32, F16, BF16, Q8_0, Q5_0, Q5_1, Q4_0, Q4_1 or Q2_K to Q6_K";

/// The types of metadata.
enum class Kind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kText,
  kList,
  kU64,
  kI64,
  kF64,
};

/// Bytes of a value; 0 for texts and lists, and for kinds that there are not.
size_t width_of(Kind kind) {
  switch (kind) {
    case Kind::kU8:
    case Kind::kI8:
    case Kind::kBool:
      return 1;
    case Kind::kU16:
    case Kind::kI16:
      return 2;
    case Kind::kU32:
    case Kind::kI32:
    case Kind::kF32:
      return 4;
    case Kind::kU64:
    case Kind::kI64:
    case Kind::kF64:
      return 8;
    case Kind::kText:
    case Kind::kList:
      break;
  }
  return 0;
}

/// What a file says of a tensor.
struct TensorInfo {
  std::string name;
  Shape shape;
  uint32_t type = 0;
  uint64_t offset = 0;
};

}  // namespace

/// Reads a file from its begin to its data; refuses what does not fit.
class GgufReader {
 public:
  GgufReader(GgufFile& file, const std::shared_ptr<FileBytes>& bytes)
      : file_(file),
        bytes_(bytes),
        data_(reinterpret_cast<const uint8_t*>(bytes->begin())),
        size_(bytes->size()) {}

  void read() {
    if (size_ < kMagic.size() ||
        std::memcmp(take(kMagic.size(), "magic"), kMagic.data(), kMagic.size()) != 0) {
      damaged("it does not begin with \"GGUF\"");
    }
    const auto version = number<uint32_t>("version");
    // Versions are small: the upper half of the bytes is empty, or the whole is turned around.
    if (version != 0 && version % 0x10000 == 0) refuse("it is big-endian, little-endian is read");
    if (version != 2 && version != 3) refuse("its version is {}, 2 and 3 are read", version);
    const auto tensors = number<uint64_t>("number of tensors");
    const auto entries = number<uint64_t>("number of metadata entries");
    if (tensors > kMaxTensors)
      damaged("it names {} tensors, at most {} are read", tensors, kMaxTensors);
    if (entries > kMaxEntries) {
      damaged("it has {} metadata entries, at most {} are read", entries, kMaxEntries);
    }
    for (uint64_t i = 0; i < entries; ++i) read_entry();
    std::vector<TensorInfo> infos;
    for (uint64_t i = 0; i < tensors; ++i) infos.push_back(read_info());
    const uint64_t alignment = read_alignment();
    // What is empty has no data section, and may end without the padding before it.
    begin_ = std::min<uint64_t>(round_up(at_, alignment), size_);
    for (const TensorInfo& info : infos) add_tensor(info, alignment);
    check_extents();
  }

 private:
  template <typename... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: not a usable GGUF file: {}; download it again",
         file_.path_.string(), fmt::format(format, std::forward<Args>(args)...));
  }

  /// Of what its writer did, which no download mends.
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorCode::kInvalidArgument, "{}: not a usable GGUF file: {}; convert the model again",
         file_.path_.string(), fmt::format(format, std::forward<Args>(args)...));
  }

  const uint8_t* take(uint64_t bytes, std::string_view what) {
    if (bytes > size_ - at_) {
      damaged("it ends at byte {}, in the {} that begins at byte {}", size_, what, at_);
    }
    const uint8_t* taken = data_ + at_;
    at_ += bytes;
    bytes_->read_front(at_);
    return taken;
  }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what), sizeof(T));  // little-endian, as this machine
    return value;
  }

  std::string_view text(std::string_view what) {
    const auto length = number<uint64_t>(what);
    return {reinterpret_cast<const char*>(take(length, what)), length};
  }

  std::string name(std::string_view what) {
    const std::string_view found = text(what);
    if (found.size() > kMaxNameBytes) {
      damaged("a {} has {} bytes, at most {} are read", what, found.size(), kMaxNameBytes);
    }
    if (find_invalid_utf8(found)) damaged("a {} is not UTF-8", what);
    return std::string(found);
  }

  void read_entry() {
    const std::string key = name("metadata key");
    const auto kind = static_cast<Kind>(number<uint32_t>("metadata type"));
    if (!file_.metadata_.emplace(key, read_value(key, kind)).second) {
      damaged("metadata key '{}' is there twice", key);
    }
  }

  GgufFile::Value read_value(const std::string& key, Kind kind) {
    switch (kind) {
      case Kind::kU8:
        return int64_t{number<uint8_t>(key)};
      case Kind::kI8:
        return int64_t{number<int8_t>(key)};
      case Kind::kU16:
        return int64_t{number<uint16_t>(key)};
      case Kind::kI16:
        return int64_t{number<int16_t>(key)};
      case Kind::kU32:
        return int64_t{number<uint32_t>(key)};
      case Kind::kI32:
        return int64_t{number<int32_t>(key)};
      case Kind::kU64:
        return static_cast<int64_t>(number<uint64_t>(key));
      case Kind::kI64:
        return number<int64_t>(key);
      case Kind::kF32:
        return double{number<float>(key)};
      case Kind::kF64:
        return number<double>(key);
      case Kind::kBool:
        return number<uint8_t>(key) != 0;
      case Kind::kText:
        return text(key);
      case Kind::kList:
        return read_list(key);
    }
    damaged("metadata key '{}' is of type {}, which there is not", key,
            static_cast<uint32_t>(kind));
  }

  GgufFile::Value read_list(const std::string& key) {
    const auto kind = static_cast<Kind>(number<uint32_t>(key));
    const auto count = number<uint64_t>(key);
    if (kind == Kind::kText) {
      // Each takes 8 bytes at least: a wrong number is found before room is made for it.
      if (count > (size_ - at_) / sizeof(uint64_t)) {
        damaged("metadata key '{}' has {} texts, more than the file has room for", key, count);
      }
      std::vector<std::string_view> texts;
      texts.reserve(count);
      for (uint64_t i = 0; i < count; ++i) texts.push_back(text(key));
      return texts;
    }
    const size_t width = width_of(kind);
    if (width == 0) {
      refuse("metadata key '{}' is a list of type {}, which is not read", key,
             static_cast<uint32_t>(kind));
    }
    if (count > (size_ - at_) / width) {
      damaged("metadata key '{}' has {} values, more than the file has room for", key, count);
    }
    return GgufFile::Bytes{
        {take(count * width, key), count * width}, width, kind == Kind::kF32 || kind == Kind::kF64};
  }

  TensorInfo read_info() {
    TensorInfo info;
    info.name = name("tensor name");
    const auto dimensions = number<uint32_t>("tensor's number of dimensions");
    if (dimensions > kMaxDimensions) {
      damaged("tensor '{}' has {} dimensions, at most {} are allowed", info.name, dimensions,
              kMaxDimensions);
    }
    int64_t sizes[kMaxDimensions];
    uint64_t count = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      const auto size = number<uint64_t>("tensor's dimension");
      // An empty tensor's other dimensions are bounded, too: products of some of them are taken.
      if (size > kMaxElements ||
          __builtin_mul_overflow(count, std::max<uint64_t>(size, 1), &count) ||
          count > kMaxElements) {
        damaged("tensor '{}' is too large: dimension {} is {}", info.name, i, size);
      }
      sizes[dimensions - 1 - i] = static_cast<int64_t>(size);
    }
    info.shape = Shape(sizes, static_cast<int>(dimensions));
    info.type = number<uint32_t>("tensor's type");
    info.offset = number<uint64_t>("tensor's offset");
    return info;
  }

  uint64_t read_alignment() const {
    constexpr uint64_t kDefault = 32;
    constexpr int64_t kLargest = 1 << 16;
    const GgufFile::Value* value = file_.find_metadata("general.alignment");
    if (value == nullptr) return kDefault;
    const auto* number = std::get_if<int64_t>(value);
    const bool usable =
        number != nullptr && *number >= 1 && *number <= kLargest && (*number & (*number - 1)) == 0;
    if (!usable) {
      refuse("general.alignment is {}, expected a power of two up to {}",
             number == nullptr ? "no integer" : std::to_string(*number), kLargest);
    }
    return static_cast<uint64_t>(*number);
  }

  void add_tensor(const TensorInfo& info, uint64_t alignment) {
    if (file_.tensors_.contains(info.name) || file_.unreadable_.contains(info.name)) {
      refuse("tensor '{}' is named twice", info.name);
    }
    const uint64_t room = size_ - begin_;
    if (info.offset > room) {
      damaged("tensor '{}' begins at byte {} of {} bytes of data", info.name, info.offset, room);
    }
    if (info.offset % alignment != 0) {
      refuse("tensor '{}' begins at byte {} of the data, which are aligned to {}", info.name,
             info.offset, alignment);
    }
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const GgmlType& known) { return known.id == info.type; });
    if (type == std::end(kTypes) || (!type->dtype && !type->encoding)) {
      file_.unreadable_[info.name] = fmt::format(
          "is stored as {}, expected {}; use a file of these types",
          type == std::end(kTypes) ? fmt::format("type {}", info.type) : std::string(type->name),
          kReadable);
      return;
    }
    const EncodingInfo& encoding = info_of(type->encoding.value_or(Encoding::kPlain));
    const int64_t columns = info.shape.rank() == 0 ? 1 : info.shape[info.shape.rank() - 1];
    if (columns % encoding.block_values != 0) {
      refuse("tensor '{}' has rows of {} values, which are no whole blocks of {} ({} values)",
             info.name, columns, type->name, encoding.block_values);
    }
    const int64_t row_bytes = type->dtype ? columns * static_cast<int64_t>(size_of(*type->dtype))
                                          : columns / encoding.block_values * encoding.block_bytes;
    const int64_t rows = columns == 0 ? 0 : info.shape.numel() / columns;
    const auto bytes = static_cast<uint64_t>(rows * row_bytes);
    if (bytes > room - info.offset) {
      damaged("tensor '{}' has {} bytes at byte {}, the data end at byte {}", info.name, bytes,
              info.offset, room);
    }
    extents_.emplace_back(info.offset, info.offset + bytes, info.name);
    const uint8_t* data = data_ + begin_ + info.offset;
    StoredTensor tensor = type->dtype
                              ? StoredTensor(ConstTensor(data, *type->dtype, info.shape))
                              : StoredTensor(*type->encoding, info.shape,
                                             ConstTensor(data, DType::kU8, {rows, row_bytes}));
    tensor.file = bytes_;
    file_.tensors_.emplace(info.name, std::move(tensor));
  }

  /// Tensors may leave gaps, and do not overlap.
  void check_extents() {
    std::sort(extents_.begin(), extents_.end());
    for (size_t i = 1; i < extents_.size(); ++i) {
      const auto& [begin, end, name] = extents_[i];
      if (begin < std::get<1>(extents_[i - 1])) {
        refuse("tensor '{}' begins at byte {} of the data, '{}' ends at {}", name, begin,
               std::get<2>(extents_[i - 1]), std::get<1>(extents_[i - 1]));
      }
    }
  }

  GgufFile& file_;
  const std::shared_ptr<FileBytes>& bytes_;
  const uint8_t* data_;
  uint64_t size_;
  uint64_t at_ = 0;     // the next byte to read
  uint64_t begin_ = 0;  // of the data
  std::vector<std::tuple<uint64_t, uint64_t, std::string>> extents_;
};

std::unique_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& file) {
  return open(file, FileBytes::open(file));
}

std::unique_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& file,
                                               const std::shared_ptr<FileBytes>& bytes) {
  auto result = std::make_unique<GgufFile>();
  result->path_ = file;
  result->bytes_ = bytes;
  GgufReader(*result, bytes).read();
  return result;
}

std::unique_ptr<const GgufFile> GgufFile::parse(const void* data, size_t size,
                                                const std::string& name) {
  return open(name, FileBytes::of(data, size, name));
}

const GgufFile::Value* GgufFile::find_metadata(std::string_view key) const {
  const auto found = metadata_.find(key);
  return found == metadata_.end() ? nullptr : &found->second;
}

std::optional<std::string_view> GgufFile::text(std::string_view key) const {
  const Value* value = find_metadata(key);
  const auto* text = value == nullptr ? nullptr : std::get_if<std::string_view>(value);
  return text == nullptr ? std::nullopt : std::optional(*text);
}

const std::vector<std::string_view>* GgufFile::texts(std::string_view key) const {
  const Value* value = find_metadata(key);
  return value == nullptr ? nullptr : std::get_if<std::vector<std::string_view>>(value);
}

const GgufFile::Bytes* GgufFile::list(std::string_view key) const {
  const Value* value = find_metadata(key);
  return value == nullptr ? nullptr : std::get_if<Bytes>(value);
}

}  // namespace flux
