#include "convert/repository.h"

#include <sys/statvfs.h>

#include <array>
#include <set>

#include "convert/file_transfer.h"
#include "convert/repository_target.h"
#include "convert/staging_directory.h"
#include "convert/weight_check.h"
#include "support/error.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// A component that holds weights.
struct Part {
  const char* name;
  const char* stem;  // of its weight files
  const WeightFiles& files;
};

std::array<Part, 4> weight_parts(const Checkpoint& checkpoint) {
  return {{{"text_encoder", "model", checkpoint.text_encoder()},
           {"text_encoder_2", "model", checkpoint.text_encoder_2()},
           {"transformer", "diffusion_pytorch_model", checkpoint.transformer()},
           {"vae", "diffusion_pytorch_model", checkpoint.vae()}}};
}

/// What a tokenizer directory may hold; which of them are there differs.
constexpr std::array<const char*, 7> kTokenizerFiles = {"tokenizer.json",
                                                        "tokenizer_config.json",
                                                        "special_tokens_map.json",
                                                        "added_tokens.json",
                                                        "vocab.json",
                                                        "merges.txt",
                                                        "spiece.model"};

/// One file or directory to bring over.
struct Transfer {
  enum class Kind { kSmallFile, kWeightFile, kDirectory };

  Kind kind;
  fs::path source;
  fs::path target;
};

/// The configurations, which "bls" and whoever opens a repository read.
void add_configs(const ModelLayout& from, const ModelLayout& to, std::vector<Transfer>& transfers) {
  for (const char* part : {"text_encoder", "text_encoder_2", "transformer", "vae", "scheduler"}) {
    const bool scheduler = part == std::string_view("scheduler");
    const char* name = scheduler ? "scheduler_config.json" : "config.json";
    transfers.push_back(
        {Transfer::Kind::kSmallFile, from.config(part) / name, to.config(part) / name});
  }
}

void add_weights(const Part& part, const ModelLayout& from, const ModelLayout& to,
                 std::vector<Transfer>& transfers) {
  const fs::path target = to.component(part.name);
  const fs::path source = from.component(part.name);
  transfers.push_back(
      {Transfer::Kind::kSmallFile, from.config(part.name) / "config.json", target / "config.json"});
  const std::string index = fmt::format("{}.safetensors.index.json", part.stem);
  if (fs::exists(source / index)) {
    transfers.push_back({Transfer::Kind::kSmallFile, source / index, target / index});
  }
  std::set<fs::path> files;
  for (const std::string& name : part.files.names()) files.insert(part.files.file_of(name));
  for (const fs::path& file : files) {
    transfers.push_back({Transfer::Kind::kWeightFile, file, target / file.filename()});
  }
}

void add_tokenizer(const char* name, const ModelLayout& from, const ModelLayout& to,
                   std::vector<Transfer>& transfers) {
  for (const char* file : kTokenizerFiles) {
    const fs::path source = from.component(name) / file;
    if (!fs::exists(source)) continue;
    transfers.push_back({Transfer::Kind::kSmallFile, source, to.component(name) / file});
  }
}

std::vector<Transfer> plan_transfers(const Checkpoint& checkpoint, const ModelLayout& to,
                                     Weights weights) {
  const ModelLayout& from = checkpoint.layout();
  std::vector<Transfer> transfers;
  add_configs(from, to, transfers);
  for (const Part& part : weight_parts(checkpoint)) {
    if (weights == Weights::kReference) {
      transfers.push_back({Transfer::Kind::kDirectory, fs::canonical(from.component(part.name)),
                           to.component(part.name)});
    } else {
      add_weights(part, from, to, transfers);
    }
  }
  for (const char* tokenizer : {"tokenizer", "tokenizer_2"}) {
    if (weights == Weights::kReference) {
      transfers.push_back({Transfer::Kind::kDirectory, fs::canonical(from.component(tokenizer)),
                           to.component(tokenizer)});
    } else {
      add_tokenizer(tokenizer, from, to, transfers);
    }
  }
  return transfers;
}

bool is_copied(const Transfer& transfer, Weights weights) {
  return transfer.kind == Transfer::Kind::kSmallFile ||
         (transfer.kind == Transfer::Kind::kWeightFile && weights == Weights::kCopy);
}

int64_t bytes_to_copy(const std::vector<Transfer>& transfers, Weights weights) {
  int64_t bytes = 0;
  for (const Transfer& transfer : transfers) {
    if (is_copied(transfer, weights)) bytes += static_cast<int64_t>(fs::file_size(transfer.source));
  }
  return bytes;
}

/// Better now than after an hour of copying.
void check_room(const fs::path& directory, int64_t wanted) {
  struct statvfs status {};
  if (::statvfs(directory.c_str(), &status) != 0) return;  // writing will tell
  const auto free_bytes =
      static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
  check(wanted <= free_bytes, ErrorCode::kUnavailable,
        "{}: {} bytes are to be copied there and {} are free; make room, or use --weights link or "
        "reference",
        directory.string(), wanted, free_bytes);
}

/// Fills the staging directory.
class Writer {
 public:
  Writer(const Checkpoint& checkpoint, const ConvertOptions& options,
         const ConvertObserver& observer, ConvertResult& result)
      : checkpoint_(checkpoint), options_(options), observer_(observer), result_(result) {}

  void fill(const fs::path& root) {
    // With model_index.json in place `root` is a repository, and ModelLayout says what goes where.
    const fs::path index = root / "bls" / "1" / "model_index.json";
    fs::create_directories(index.parent_path());
    copy(checkpoint_.layout().model_index(), index);
    const ModelLayout layout(root);
    const std::vector<Transfer> transfers = plan_transfers(checkpoint_, layout, options_.weights);
    const int64_t bytes = bytes_to_copy(transfers, options_.weights);
    check_room(root, bytes);
    total_ = result_.copied_bytes + bytes;
    for (const ModelFile& file : make_model_files(checkpoint_.config(), options_.serving)) {
      fs::create_directories(root / file.model / "1");
      write_new_file(root / file.model / file.name, file.text);
      ++result_.files;
    }
    for (const Transfer& transfer : transfers) perform(transfer);
  }

 private:
  void perform(const Transfer& transfer) {
    observer_.poll();
    fs::create_directories(transfer.target.parent_path());
    if (transfer.kind == Transfer::Kind::kDirectory) {
      fs::create_directory_symlink(transfer.source, transfer.target);
    } else if (is_copied(transfer, options_.weights)) {
      copy(transfer.source, transfer.target);
    } else {
      hard_link_file(transfer.source, transfer.target);
      ++result_.files;
    }
  }

  void copy(const fs::path& source, const fs::path& target) {
    copy_file_content(source, target, [this](int64_t bytes) {
      result_.copied_bytes += bytes;
      if (observer_.on_copy && total_ > 0) observer_.on_copy(result_.copied_bytes, total_);
      observer_.poll();
    });
    ++result_.files;
  }

  const Checkpoint& checkpoint_;
  const ConvertOptions& options_;
  const ConvertObserver& observer_;
  ConvertResult& result_;
  int64_t total_ = 0;
};

int64_t weight_bytes_of(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const Part& part : weight_parts(checkpoint)) bytes += part.files.bytes();
  return bytes;
}

/// Weights are bound as the engine would. Where all models run in Python, the engine's dtypes and
/// devices are no limit.
void check_weights_for(const Checkpoint& checkpoint, const ServingOptions& serving) {
  const bool engine = serving.in_python.size() < std::size(kModelNames);
  check_weights(checkpoint, engine ? serving.dtype : DType::kF32,
                engine ? serving.device : Device{});
}

}  // namespace

ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const fs::path& name,
                                 const ConvertOptions& options, const ConvertObserver& observer) {
  ConvertResult result;
  result.repository = resolve_repository(checkpoint, name, options.replace);
  result.weight_bytes = weight_bytes_of(checkpoint);
  check_weights_for(checkpoint, options.serving);
  observer.poll();
  try {
    StagingDirectory staging(result.repository);
    Writer(checkpoint, options, observer, result).fill(staging.path());
    // What was written must open like what it was made from.
    Checkpoint::open(staging.path());
    observer.poll();
    staging.commit(options.replace ? Existing::kReplace : Existing::kRefuse);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::kUnavailable, "{}: cannot be written: {}", result.repository.string(),
         error.what());
  }
  return result;
}

}  // namespace flux
