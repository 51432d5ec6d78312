#include "convert/repository.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "convert/file_transfer.h"
#include "convert/repository_layout.h"
#include "convert/repository_target.h"
#include "convert/staging_directory.h"
#include "convert/weight_check.h"
#include "models/vae/vae_encoder.h"
#include "pipeline/model_names.h"
#include "support/error.h"
#include "weights/weight_files.h"

namespace flux {
namespace {

namespace fs = std::filesystem;

/// The files that a tokenizer directory may hold; checkpoints differ in which there are.
constexpr std::array<const char*, 7> kTokenizerFiles = {"tokenizer.json",
                                                        "tokenizer_config.json",
                                                        "special_tokens_map.json",
                                                        "added_tokens.json",
                                                        "vocab.json",
                                                        "merges.txt",
                                                        "spiece.model"};

/// One file or directory to bring over.
struct Transfer {
  enum class Kind { kText, kSmallFile, kWeightFile, kDirectory };

  Kind kind;
  fs::path source;
  fs::path target;
  std::string text = {};  // of kText, which has no source
};

/// The config of a component as a file; one that no file holds is written.
Transfer config_transfer(const Checkpoint& checkpoint, Component component,
                         const fs::path& target) {
  const fs::path file = checkpoint.layout().config(component);
  if (!file.empty()) return {Transfer::Kind::kSmallFile, file, target};
  return {Transfer::Kind::kText, {}, target, checkpoint.config_json(component).dump(2) + "\n"};
}

/// The configurations, which a pipeline and whoever opens a repository read.
void add_configs(const Checkpoint& checkpoint, const ImageSize& default_size, const Layout& to,
                 std::vector<Transfer>& transfers) {
  transfers.push_back(
      {Transfer::Kind::kText,
       {},
       to.model_index(),
       model_index_for_repository(checkpoint.index(), default_size, checkpoint.name())});
  for (const Component component : checkpoint.family().components) {
    if (info_of(component).config_file.empty()) continue;
    transfers.push_back(config_transfer(checkpoint, component, to.config(component)));
  }
}

void add_weight_files(const Checkpoint& checkpoint, Component component, const Layout& to,
                      std::vector<Transfer>& transfers) {
  const ComponentInfo& info = info_of(component);
  const fs::path target = to.place(component);
  const fs::path source = checkpoint.layout().place(component);
  transfers.push_back(config_transfer(checkpoint, component, target / info.config_file));
  const TensorStore& weights = checkpoint.weights(component);
  std::set<fs::path> files;
  for (const std::string& name : weights.names()) files.insert(weights.file_of(name));
  // A variant gets the plain names, by which everybody finds it; an index names its shards.
  const fs::path first = WeightFiles::first_file(source, info.weights_stem, checkpoint.variant());
  const std::string plain = fmt::format("{}.safetensors", info.weights_stem);
  if (first.extension() == ".json") {
    transfers.push_back({Transfer::Kind::kSmallFile, first, target / (plain + ".index.json")});
  }
  for (const fs::path& file : files) {
    const fs::path name = file == first ? fs::path(plain) : file.filename();
    transfers.push_back({Transfer::Kind::kWeightFile, file, target / name});
  }
}

void add_tokenizer(const fs::path& source, const fs::path& target,
                   std::vector<Transfer>& transfers) {
  if (fs::is_regular_file(source)) {  // in the metadata of a file of weights
    transfers.push_back({Transfer::Kind::kWeightFile, source, target / source.filename()});
    return;
  }
  for (const char* file : kTokenizerFiles) {
    if (!fs::exists(source / file)) continue;
    transfers.push_back({Transfer::Kind::kSmallFile, source / file, target / file});
  }
}

/// Whether a component is a directory that a repository may refer to as it is.
bool is_complete(const Checkpoint& checkpoint, Component component) {
  const fs::path place = checkpoint.layout().place(component);
  if (!fs::is_directory(place)) return false;
  const std::string_view stem = info_of(component).weights_stem;
  const fs::path plain = WeightFiles::first_file(place, stem);
  if (WeightFiles::first_file(place, stem, checkpoint.variant()) != plain) return false;
  return info_of(component).config_file.empty() || !checkpoint.layout().config(component).empty();
}

void add_weights(const Checkpoint& checkpoint, Component component, Weights weights,
                 const Layout& to, std::vector<Transfer>& transfers) {
  if (weights == Weights::kReference && is_complete(checkpoint, component)) {
    transfers.push_back({Transfer::Kind::kDirectory,
                         fs::canonical(checkpoint.layout().place(component)), to.place(component)});
  } else {
    add_weight_files(checkpoint, component, to, transfers);
  }
}

std::vector<Transfer> plan_transfers(const Checkpoint& checkpoint, const fs::path& root,
                                     const ConvertOptions& options) {
  const Layout& from = checkpoint.layout();
  const ServingOptions& serving = options.serving;
  const RepositoryLayout to(root, serving.prefix);
  std::vector<Transfer> transfers;
  const auto version_of_model = [&](std::string_view kind) {
    return DiffusersLayout(root / fmt::format("{}{}", serving.prefix, kind) / "1");
  };
  add_configs(checkpoint, serving.default_size, to, transfers);
  if (serving.has_stream()) {
    add_configs(checkpoint, serving.default_size, version_of_model(kStreamName), transfers);
  }
  if (serving.encodes_images()) {
    add_weights(checkpoint, Component::kVae, options.weights, version_of_model(kImageEncoderName),
                transfers);
  }
  for (const Component component : checkpoint.family().components) {
    const ComponentInfo& info = info_of(component);
    if (!info.stage) continue;  // the configurations are all of it
    if (!info.weights_stem.empty()) {
      add_weights(checkpoint, component, options.weights, to, transfers);
    } else if (options.weights == Weights::kReference && is_complete(checkpoint, component)) {
      transfers.push_back(
          {Transfer::Kind::kDirectory, fs::canonical(from.place(component)), to.place(component)});
    } else {
      add_tokenizer(from.place(component), to.place(component), transfers);
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
  std::set<fs::path> seen;  // a file of several components is copied once
  for (const Transfer& transfer : transfers) {
    if (!is_copied(transfer, weights)) continue;
    const bool again =
        transfer.kind == Transfer::Kind::kWeightFile && !seen.insert(transfer.source).second;
    if (!again) bytes += static_cast<int64_t>(fs::file_size(transfer.source));
  }
  return bytes;
}

/// Better now than after an hour of copying.
void check_room(const fs::path& directory, int64_t wanted, Weights weights) {
  struct statvfs status {};
  if (::statvfs(directory.c_str(), &status) != 0) return;  // writing will tell
  const auto free_bytes =
      static_cast<int64_t>(status.f_bavail) * static_cast<int64_t>(status.f_frsize);
  check(wanted <= free_bytes, ErrorCode::kUnavailable,
        "{}: {} bytes are to be copied there and {} are free; make room{}", directory.string(),
        wanted, free_bytes,
        weights == Weights::kCopy ? ", or use --weights link or reference" : "");
}

/// Fills the staging directory.
class Writer {
 public:
  Writer(const Checkpoint& checkpoint, const ConvertOptions& options,
         const ConvertObserver& observer, ConvertResult& result)
      : checkpoint_(checkpoint), options_(options), observer_(observer), result_(result) {}

  void fill(const fs::path& root) {
    const std::vector<Transfer> transfers = plan_transfers(checkpoint_, root, options_);
    const int64_t bytes = bytes_to_copy(transfers, options_.weights);
    check_room(root, bytes, options_.weights);
    total_ = result_.copied_bytes + bytes;
    std::set<std::string> models;
    for (const ModelFile& file : make_model_files(checkpoint_.config(), options_.serving)) {
      models.insert(file.model);
      fs::create_directories(root / file.model / "1");
      const fs::path place = root / file.model / file.name;
      fs::create_directories(place.parent_path());
      write_new_file(place, file.text);
      ++result_.files;
    }
    result_.models = static_cast<int>(models.size());
    for (const Transfer& transfer : transfers) perform(transfer);
  }

 private:
  void perform(const Transfer& transfer) {
    observer_.poll();
    fs::create_directories(transfer.target.parent_path());
    if (transfer.kind == Transfer::Kind::kDirectory) {
      fs::create_directory_symlink(transfer.source, transfer.target);
      return;
    }
    if (transfer.kind == Transfer::Kind::kText) {
      write_new_file(transfer.target, transfer.text);
      ++result_.files;
    } else if (transfer.kind == Transfer::Kind::kSmallFile) {
      copy(transfer.source, transfer.target);
    } else {
      bring_weights(transfer.source, transfer.target);
    }
  }

  void bring_weights(const fs::path& source, const fs::path& target) {
    fs::path& first = brought_[source];
    if (options_.weights == Weights::kReference) {
      fs::create_symlink(fs::canonical(source), target);
      ++result_.files;
    } else if (options_.weights == Weights::kCopy && first.empty()) {
      copy(source, target);
    } else {
      hard_link_file(options_.weights == Weights::kCopy ? first : source, target);
      ++result_.files;
    }
    first = target;
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
  std::map<fs::path, fs::path> brought_;  // files of weights, and where they are now
};

int64_t weight_bytes_of(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const Component component : checkpoint.weight_components()) {
    bytes += checkpoint.weights(component).bytes();
  }
  return bytes;
}

/// The models in Python load diffusers' own files.
void check_for_python(const Checkpoint& checkpoint, const ServingOptions& serving) {
  if (serving.in_python.empty()) return;
  for (const Component component : checkpoint.weight_components()) {
    const fs::path file = checkpoint.layout().config(component);
    const std::string_view layout = checkpoint.weight_layout(component);
    check(!file.empty() && (layout == "diffusers" || layout == "transformers"),
          ErrorCode::kInvalidArgument,
          "{}: a model in Python needs a diffusers checkpoint; '{}' has {} names and {}; use "
          "--backend native",
          checkpoint.layout().place(component), name_of(component), layout,
          file.empty() ? "no config.json" : "a config.json");
  }
}

/// The models in Python take no images, and what every request needs must be there.
void check_kind(const Checkpoint& checkpoint, const ServingOptions& serving) {
  const PipelineKindInfo& kind = info_of(checkpoint.config().kind);
  if (kind.kind == PipelineKind::kFlux) return;
  check(serving.in_python.empty(), ErrorCode::kUnsupported,
        "{}: models in Python serve {} alone, not {}; use --backend native",
        checkpoint.index().file, info_of(PipelineKind::kFlux).class_name, kind.class_name);
  check(serving.has_encoder, ErrorCode::kInvalidArgument,
        "{}: the vae has no encoder, and {} takes images; give one that has it by --vae",
        checkpoint.layout().place(Component::kVae), kind.class_name);
}

/// Weights are bound as the engine would. Where all models run in Python, the engine's dtypes and
/// devices are no limit.
void check_weights_for(const Checkpoint& checkpoint, const ServingOptions& serving) {
  const bool engine = serving.in_python.size() < std::size(kModelNames);
  check_weights(checkpoint, engine ? serving.dtype : DType::kF32,
                engine ? serving.device : Device{});
}

/// Adapters are their owner's, not the checkpoint's: a repository that takes another's place has
/// them, too.
void keep_adapters(const fs::path& old_model, const fs::path& new_model) {
  const fs::path from = old_model / kLorasDirectory;
  const fs::path to = new_model / kLorasDirectory;
  if (fs::is_symlink(from)) {
    fs::remove_all(to);
    fs::copy_symlink(from, to);
  } else if (fs::is_directory(from)) {
    const auto is_ours = [](const fs::directory_entry& entry) {
      return entry.path().filename() == kLorasReadme;
    };
    const fs::directory_iterator entries(from);
    if (std::all_of(begin(entries), end(entries), is_ours)) return;
    fs::remove_all(to);
    link_tree(from, to);
  }
}

}  // namespace

ConvertResult convert_checkpoint(const Checkpoint& checkpoint, const fs::path& name,
                                 const ConvertOptions& asked, const ConvertObserver& observer) {
  ConvertOptions options = asked;
  options.serving.has_encoder = has_vae_encoder(checkpoint.weights(Component::kVae));
  ConvertResult result;
  const RepositoryTarget target =
      resolve_repository(checkpoint, name, options.serving.prefix, options.replace);
  result.repository = target.path;
  result.weight_bytes = weight_bytes_of(checkpoint);
  check_kind(checkpoint, options.serving);
  check_for_python(checkpoint, options.serving);
  check_weights_for(checkpoint, options.serving);
  observer.poll();
  try {
    StagingDirectory staging(result.repository);
    Writer(checkpoint, options, observer, result).fill(staging.path());
    // The new repository must open like its checkpoint.
    open_source(staging.path());
    observer.poll();
    for (const std::string& model : target.others) {
      link_tree(target.path / model, staging.path() / model);
    }
    const bool replace = options.replace || !target.others.empty();
    const std::string pipeline = fmt::format("{}{}", options.serving.prefix, kModelNames[0]);
    keep_adapters(target.path / pipeline, staging.path() / pipeline);
    staging.commit(replace ? Existing::kReplace : Existing::kRefuse);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::kUnavailable, "{}: cannot be written: {}", result.repository.string(),
         error.what());
  }
  return result;
}

}  // namespace flux
