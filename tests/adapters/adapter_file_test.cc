#include "adapters/adapter_file.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>

#include "adapters/trainer_notes.h"
#include "made_file.h"
#include "support/utf8.h"

namespace flux {
namespace {

using testing::find_change;
using testing::MadeFile;
using testing::says;
using Names = std::vector<std::string>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::string kQkv = "lora_unet_double_blocks_0_img_attn_qkv";
const std::string kOut = "lora_unet_double_blocks_0_img_attn_proj";

TEST(AdapterFile, FusedMatricesAreSplitByRows) {
  MadeFile file;
  file.add_pair(kQkv, 24, 8, 2).add(kQkv + ".alpha", {}, {1});
  file.add_pair("lora_unet_single_blocks_3_linear1", 56, 8, 4);
  const Adapter adapter = file.read();
  EXPECT_EQ(adapter.dialects, Names{"kohya"});
  EXPECT_EQ(adapter.changes.size(), 7u);
  EXPECT_TRUE(adapter.unused.empty());
  const Change* key = find_change(adapter, "transformer_blocks.0.attn.to_k");
  ASSERT_NE(key, nullptr);
  EXPECT_EQ(key->begin, 0);
  EXPECT_EQ(key->end, 8);
  EXPECT_EQ(key->first, 8);
  EXPECT_EQ(key->block, 0);
  EXPECT_EQ(key->update->rank, 2);
  EXPECT_EQ(key->update->alpha, 1.0f);
  EXPECT_EQ(key->update->scale, 0.5f);
  EXPECT_EQ(key->update->kind(), "LoRA");
  const Change* query = find_change(adapter, "transformer_blocks.0.attn.to_q");
  EXPECT_EQ(query->update, key->update);
  const Change* mlp = find_change(adapter, "single_transformer_blocks.3.proj_mlp");
  ASSERT_NE(mlp, nullptr);
  EXPECT_EQ(mlp->rows(), 32);
  EXPECT_EQ(mlp->first, 24);
  EXPECT_EQ(mlp->update->scale, 1.0f);  // no alpha: it is the rank
  EXPECT_EQ(adapter.sizes[Width::kHidden], 8);
  EXPECT_EQ(adapter.sizes.double_blocks, 1);
  EXPECT_EQ(adapter.sizes.single_blocks, 4);
}

TEST(AdapterFile, TheLastModulationHasItsHalvesSwapped) {
  MadeFile file;
  file.add_pair("lora_unet_final_layer_adaLN_modulation_1", 16, 8, 2);
  file.add_pair("lora_unet_final_layer_linear", 6, 8, 2);
  const Adapter adapter = file.read();
  const Change* first = find_change(adapter, "norm_out.linear", 0);
  const Change* second = find_change(adapter, "norm_out.linear", 8);
  ASSERT_TRUE(first != nullptr && second != nullptr);
  EXPECT_EQ(first->first, 8);
  EXPECT_EQ(second->first, 0);
  EXPECT_EQ(second->end, 16);
  EXPECT_EQ(adapter.sizes[Width::kOutput], 6);
  // In diffusers' own names nothing is swapped.
  MadeFile own;
  own.add_pair("transformer.norm_out.linear", 16, 8, 2, "lora_A", "lora_B");
  const Adapter plain = own.read();
  ASSERT_EQ(plain.changes.size(), 1u);
  EXPECT_EQ(plain.changes[0].rows(), 16);
  EXPECT_EQ(plain.changes[0].first, 0);
}

TEST(AdapterFile, DialectsAreMixed) {
  MadeFile file;
  file.add_pair(kQkv, 24, 8, 2);
  file.add_pair("transformer.transformer_blocks.1.attn.to_q", 8, 8, 3, "lora_A", "lora_B");
  file.add_pair("diffusion_model.img_in", 8, 4, 1, "lora_A", "lora_B");
  file.add_pair("single_blocks.0.processor.qkv_lora", 24, 8, 2, "down", "up");
  file.add_pair("lora_te1_text_model_encoder_layers_1_mlp_fc1", 40, 10, 2);
  file.add_pair("lora_te3_encoder_block_2_layer_1_DenseReluDense_wi_1", 30, 12, 2);
  file.add("lora_te1_text_model_encoder_layers_1_unheard_of.alpha", {}, {1});
  const Adapter adapter = file.read();
  EXPECT_EQ(adapter.dialects, (Names{"ComfyUI", "XLabs", "diffusers", "kohya"}));
  EXPECT_EQ(adapter.unused, (Names{"lora_te1_text_model_encoder_layers_1_unheard_of.alpha"}));
  EXPECT_EQ(adapter.changes.size(), 3u + 1 + 1 + 3 + 1 + 1);
  EXPECT_EQ(adapter.sizes[Width::kInput], 4);
  EXPECT_EQ(adapter.sizes[Width::kClip], 10);
  EXPECT_EQ(adapter.sizes[Width::kClipMlp], 40);
  EXPECT_EQ(adapter.sizes[Width::kT5Mlp], 30);
  EXPECT_EQ(adapter.sizes.t5_layers, 3);
  const Change* clip = find_change(adapter, "text_model.encoder.layers.1.mlp.fc1");
  ASSERT_NE(clip, nullptr);
  EXPECT_EQ(clip->model, AdapterModel::kClip);
}

TEST(AdapterFile, ControlLorasWidenTheInputAndReplaceNorms) {
  MadeFile file;
  file.add_pair("img_in", 8, 12, 2, "lora_A", "lora_B").add("img_in.lora_B.bias", {8});
  file.add("double_blocks.0.img_attn.norm.query_norm.scale", {4});
  file.add("single_blocks.1.norm.key_norm.scale", {4});
  const Adapter adapter = file.read();
  EXPECT_EQ(adapter.dialects, (Names{"Black Forest Labs"}));
  EXPECT_TRUE(adapter.unused.empty());
  EXPECT_EQ(adapter.sizes[Width::kInput], 12);
  EXPECT_EQ(adapter.sizes[Width::kHead], 4);
  const Change* bias = find_change(adapter, "x_embedder", 0, Parameter::kBias);
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(bias->update->columns, 0);
  const Change* norm = find_change(adapter, "single_transformer_blocks.1.attn.norm_k");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->update->kind(), "replacement");
}

TEST(AdapterFile, TheBiasOfALowRankUpdateHasItsScale) {
  MadeFile file;
  file.add_pair("transformer.x_embedder", 8, 4, 4, "lora_A", "lora_B")
      .add("transformer.x_embedder.lora_B.bias", {8})
      .add("transformer.x_embedder.alpha", {1}, {2});
  const Adapter adapter = file.read();
  EXPECT_EQ(find_change(adapter, "x_embedder", 0, Parameter::kBias)->update->scale, 0.5f);
}

TEST(AdapterFile, KindsOfChanges) {
  MadeFile file;
  const std::string lokr = "lycoris_transformer_blocks_1_attn_add_q_proj";
  file.add(lokr + ".lokr_w1", {2, 4}).add(lokr + ".lokr_w2", {4, 2});
  for (const char* name : {".hada_w1_a", ".hada_w2_a"}) file.add(kQkv + name, {24, 3});
  for (const char* name : {".hada_w1_b", ".hada_w2_b"}) file.add(kQkv + name, {3, 8});
  file.add(kOut + ".diff", {8, 8}).add(kOut + ".diff_b", {8});
  const std::string dora = "lora_unet_double_blocks_1_img_attn_qkv";
  file.add_pair(dora, 24, 8, 2).add(dora + ".dora_scale", {24, 1});
  const Adapter adapter = file.read();
  EXPECT_EQ(adapter.unused, std::vector<std::string>());
  const auto kind = [&](const std::string& module, Parameter parameter = Parameter::kWeight) {
    const Change* change = find_change(adapter, module, 0, parameter);
    return change == nullptr ? "" : change->update->kind();
  };
  EXPECT_EQ(kind("transformer_blocks.0.attn.to_out.0"), "difference");
  EXPECT_EQ(kind("transformer_blocks.0.attn.to_out.0", Parameter::kBias), "difference");
  EXPECT_EQ(kind("transformer_blocks.1.attn.to_q"), "DoRA");
  EXPECT_EQ(kind("transformer_blocks.0.attn.to_v"), "LoHa");
  EXPECT_EQ(kind("transformer_blocks.1.attn.add_q_proj"), "LoKr");
}

TEST(AdapterFile, AlphaCountsOnlyWhereAFactorHasARank) {
  MadeFile file;
  const std::string lokr = "lycoris_transformer_blocks_0_attn_to_q";
  file.add(lokr + ".lokr_w1", {2, 4}).add(lokr + ".lokr_w2_a", {4, 3});
  file.add(lokr + ".lokr_w2_b", {3, 2}).add(lokr + ".alpha", {}, {6});
  const std::string whole = "lycoris_transformer_blocks_0_attn_to_k";
  file.add(whole + ".lokr_w1", {2, 2}).add(whole + ".lokr_w2", {4, 4});
  file.add(whole + ".alpha", {}, {6}).add(whole + ".dora_scale", {1, 8});
  const Adapter adapter = file.read();
  const Update& factored = *find_change(adapter, "transformer_blocks.0.attn.to_q")->update;
  EXPECT_EQ(factored.scale, 2.0f);
  EXPECT_EQ(factored.rank, 3);
  const Update& full = *find_change(adapter, "transformer_blocks.0.attn.to_k")->update;
  EXPECT_EQ(full.scale, 1.0f);
  EXPECT_EQ(full.rank, 0);
  EXPECT_EQ(full.kind(), "DoRA of LoKr");
  EXPECT_EQ(full.dora_axis, Update::Axis::kColumns);
  EXPECT_TRUE(adapter.unused.empty());
}

TEST(AdapterFile, NumbersOfOtherTypes) {
  MadeFile file;
  file.add_pair(kOut, 8, 8, 2)
      .add_bytes(kOut + ".alpha", "I64", {}, std::string("\4\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(file.read().changes[0].update->scale, 2.0f);
  MadeFile small;
  small.add_pair(kOut, 8, 8, 2).add_bytes(kOut + ".alpha", "U8", {}, "\4");
  EXPECT_TRUE(says(small.refusal(), "proj.alpha' is stored as u8, expected"));
}

/// A file and what the error about it says.
struct BadFile {
  std::function<void(MadeFile&)> make;
  std::string expected;
};
const BadFile kBadFiles[] = {
    {[](MadeFile& f) {
       f.add(kOut + ".lora_down.weight", {2, 8}).add(kOut + ".lora_up.weight", {8, 3});
     },
     "made: tensor 'lora_unet_double_blocks_0_img_attn_proj.lora_up.weight' has shape [8, 3], "
     "and "
     "'lora_unet_double_blocks_0_img_attn_proj.lora_down.weight' [2, 8]: the ranks disagree; the "
     "file is damaged"},
    {[](MadeFile& f) {
       f.add(kOut + ".lora_down.weight", {2, 8});
     },
     "made: 'lora_unet_double_blocks_0_img_attn_proj' has no lora_B or lora_up beside the other "
     "tensors of its change; the file is damaged, download it again"},
    {[](MadeFile& f) {
       f.add(kOut + ".hada_w1_a", {8, 2});
     },
     "has no hada_w1_b beside"},
    {[](MadeFile& f) {
       f.add(kOut + ".lokr_w1", {2, 2});
     },
     "has no lokr_w2_a beside"},
    {[](MadeFile& f) { f.add_pair(kOut, 8, 8, 2).add(kOut + ".alpha", {}, {kNan}); },
     "made: tensor 'lora_unet_double_blocks_0_img_attn_proj.alpha' is nan, expected a finite "
     "number"},
    {[](MadeFile& f) { f.add_pair(kOut, 8, 8, 2).add(kOut + ".alpha", {}, {kInfinity}); },
     "proj.alpha' is inf, expected a finite number"},
    {[](MadeFile& f) { f.add_pair(kOut, 8, 8, 2).add(kOut + ".alpha", {2}); },
     "proj.alpha' has shape [2], expected one number"},
    {[](MadeFile& f) { f.add_pair(kOut, 300, 300, 257); },
     "made: tensor 'lora_unet_double_blocks_0_img_attn_proj.lora_up.weight' has rank 257, and at "
     "most 256 is applied; resize the adapter to a lower rank"},
    {[](MadeFile& f) {
       f.add(kOut + ".lora_down.weight", {2, 8, 1, 1}).add(kOut + ".lora_up.weight", {8, 2});
     },
     "lora_down.weight' has shape [2, 8, 1, 1], expected a matrix of 1 to 1048576 rows"},
    {[](MadeFile& f) {
       f.add(kOut + ".lora_down.weight", {0, 8}).add(kOut + ".lora_up.weight", {8, 0});
     },
     "lora_down.weight' has shape [0, 8], expected a matrix"},
    {[](MadeFile& f) { f.add_pair(kQkv, 25, 8, 2); },
     "changes 25 rows, expected 3 equal parts; the file is damaged, or of another model"},
    {[](MadeFile& f) { f.add_pair("lora_unet_single_blocks_0_linear1", 72, 8, 2); },
     "changes 72 rows, expected 7 equal parts"},
    {[](MadeFile& f) { f.add_pair(kQkv, 24, 8, 2).add_pair(kOut, 16, 16, 2); },
     "qkv.lora_up.weight' is for a model with hidden size 8, and '"},
    {[](MadeFile& f) { f.add_pair("lora_unet_double_blocks_0_img_mod_lin", 20, 8, 2); },
     "changes 20 rows or columns, expected a multiple of 6: 6 times the hidden size"},
    {[](MadeFile& f) {
       f.add_pair(kOut, 8, 8, 2).add(kOut + ".dora_scale", {8, 8});
     },
     "dora_scale' has shape [8, 8], expected [8, 1] or [1, 8]"},
    {[](MadeFile& f) {
       f.add_pair(kOut, 8, 8, 2).add(kOut + ".diff", {8, 8});
     },
     "proj.diff' changes what '"},
    {[](MadeFile& f) {
       f.add_pair(kOut, 8, 8, 2).add(kOut + ".lora_A.weight", {2, 8});
     },
     "are the same part of a change; use a file that has one of them"},
    {[](MadeFile& f) {
       f.add_pair(kQkv, 24, 8, 2);
       f.add_pair("transformer.transformer_blocks.0.attn.to_k", 8, 8, 2, "lora_A", "lora_B");
     },
     "both change 'transformer_blocks.0.attn.to_k'; use a file that has one of them"},
    {[](MadeFile& f) {
       f.add_pair(kOut, 8, 8, 2).add(kOut + ".lora_mid.weight", {2, 2});
     },
     "lora_mid.weight' is of the tucker form, which convolutions have"},
    {[](MadeFile& f) {
       f.add(kOut + ".hada_t1", {2, 2, 1, 1});
     },
     "is of the tucker form"},
    {[](MadeFile& f) {
       f.add(kOut + ".lokr_w1", {2, 2})
           .add(kOut + ".lokr_w1_a", {2, 2})
           .add(kOut + ".lokr_w2", {4, 4});
     },
     "lokr_w1_a' stands beside '"},
    {[](MadeFile& f) {
       f.add(kOut + ".lokr_w1", {1 << 11, 1}).add(kOut + ".lokr_w2", {1 << 10, 1});
     },
     "makes a change of shape [2097152, 1], and at most 1048576 are allowed"},
    {[](MadeFile& f) { f.add_pair("double_blocks.0.img_attn.norm.query_norm", 8, 8, 2); },
     "is of a product, and 'double_blocks.0.img_attn.norm.query_norm' is a norm"},
    {[](MadeFile& f) {
       f.add_bytes(kOut + ".lora_down.weight", "I8", {2, 8}, std::string(16, 1));
       f.add(kOut + ".lora_up.weight", {8, 2});
     },
     "is stored as i8, expected a floating point type; save it as BF16"},
    {[](MadeFile& f) {
       f.add_bytes(kOut + ".lora_down.weight", "F8_E5M2", {2, 8}, std::string(16, 1));
       f.add(kOut + ".lora_up.weight", {8, 2});
     },
     "lora_down.weight' is stored as F8_E5M2, expected"},
};

TEST(AdapterFile, TensorsThatDoNotFitTogether) {
  for (const auto& [make, expected] : kBadFiles) {
    MadeFile file;
    make(file);
    const std::string found = file.refusal();
    EXPECT_TRUE(says(found, expected));
    EXPECT_EQ(found.find('\n'), found.npos);
  }
}

TEST(AdapterFile, FilesOfWhichNothingFits) {
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"lora_unet_input_blocks_4_1_proj_in.lora_down.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"},
       "made: no adapter of FLUX.1: it seems to be an adapter of Stable Diffusion XL; give one "
       "that "
       "was trained for FLUX.1"},
      {{"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"},
       "an adapter of Stable Diffusion 1.5 or 2"},
      {{"diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight"},
       "an adapter of Stable Diffusion 3"},
      {{"diffusion_model.blocks.0.cross_attn.k.lora_A.weight"}, "an adapter of Wan"},
      {{"transformer.transformer_blocks.0.img_mlp.net.0.proj.lora_A.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"},
       "an adapter of Qwen-Image"},
      {{"transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight"},
       "an adapter of FLUX.2"},
      {{"lora_unet_img_in.oft_blocks"}, "an OFT or BOFT adapter, which is not supported"},
      {{"clip_l"}, "embeddings of a text encoder (textual inversion), not a LoRA"},
      {{"double_blocks.0.img_attn.qkv.weight", "img_in.weight"},
       "made: no adapter: it seems to be a checkpoint or a part of one; give it as the checkpoint, "
       "or with --transformer"},
      {{"a.lora_A.weight", "b"},
       "no adapter of FLUX.1: none of its 2 tensors is known, such as 'a.lora_A.weight'; give one"},
      {{}, "no adapter of FLUX.1: none of its 0 tensors is known; give one"},
  };
  for (const auto& [names, expected] : cases) {
    MadeFile file;
    for (const std::string& name : names) file.add(name, {2, 2});
    EXPECT_TRUE(says(file.refusal(), expected)) << fmt::format("{}", fmt::join(names, ", "));
  }
}

TEST(AdapterFile, SizeIsBounded) {
  MadeFile file;
  file.add_pair(kOut, 8, 8, 2);
  for (size_t i = 0; i < 100'000; ++i) file.add_bytes("t" + std::to_string(i), "F32", {0}, "");
  EXPECT_TRUE(says(file.refusal(), "made: has 100002 tensors, and an adapter at most 32768"));

  const auto path = std::filesystem::temp_directory_path() /
                    ("adapter_" + std::to_string(getpid()) + ".safetensors");
  const auto refusal = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    try {
      open_adapter(path);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  MadeFile noted;
  noted.add_pair(kOut, 8, 8, 2).note("a", std::string(kMaxAdapterHeaderBytes, 'a'));
  EXPECT_TRUE(says(refusal(noted.bytes()), "bytes, and an adapter at most 16777216; give"));
  MadeFile good;
  good.add_pair(kOut, 8, 8, 2);
  EXPECT_EQ(refusal(good.bytes()), "accepted");
  const std::string bytes = good.bytes();
  for (const size_t length : {size_t{0}, size_t{1}, size_t{8}, size_t{60}, bytes.size() - 1}) {
    EXPECT_TRUE(says(refusal(bytes.substr(0, length)), path.string() + ": ")) << length;
  }
  EXPECT_TRUE(says(refusal(bytes.substr(0, bytes.size() - 1)), "data offsets"));
  std::filesystem::remove(path);
  EXPECT_THROW(open_adapter(path), Error);
}

TEST(AdapterFile, OnlyNamesOfAdaptersMakeOne) {
  const auto is = [](const std::string& name) {
    MadeFile file;
    file.add(name, {1, 1});
    const std::string bytes = file.bytes();
    return is_adapter(*SafetensorsFile::parse(bytes.data(), bytes.size(), "made"));
  };
  EXPECT_TRUE(is("lora_unet_input_blocks_4_1_proj_in.lora_down.weight"));
  EXPECT_TRUE(is("a.lokr_w1"));
  EXPECT_FALSE(is("img_in.weight"));
  EXPECT_FALSE(is("double_blocks.0.img_attn.norm.query_norm.scale"));
  EXPECT_FALSE(is("decoder.snake.alpha"));
}

TEST(AdapterNotes, AreShownShortAndTellScales) {
  MadeFile file;
  file.add_pair("transformer.x_embedder", 8, 4, 4, "lora_A", "lora_B");
  file.add_pair("transformer.proj_out", 4, 8, 4, "lora_A", "lora_B");
  file.add_pair("transformer.context_embedder", 8, 5, 4, "lora_A", "lora_B");
  file.add("transformer.context_embedder.alpha", {}, {1});
  file.note("ss_base_model_version", "flux1").note("modelspec.title", std::string(1000, 'x'));
  file.note("unheard_of", "x");
  file.note("ss_tag_frequency", R"({"10_cat":{"cat":3,"ohwx":20},"b":{"ohwx":1,"dog":4},"c":[]})");
  file.note("lora_adapter_metadata",
            R"({"transformer.r":4,"transformer.lora_alpha":8,"transformer.use_rslora":true,)"
            R"("transformer.alpha_pattern":{"proj_out":2}})");
  const Adapter adapter = file.read();
  EXPECT_EQ(adapter.notes.at("ss_base_model_version"), "flux1");
  EXPECT_EQ(adapter.notes.at("modelspec.title").size(), TrainerNotes::kMaxNoteBytes);
  EXPECT_EQ(adapter.notes.at("trigger_words"), "ohwx, dog, cat");
  EXPECT_EQ(adapter.notes.size(), 3u);
  EXPECT_EQ(find_change(adapter, "x_embedder")->update->scale, 4.0f);
  EXPECT_EQ(find_change(adapter, "proj_out")->update->scale, 1.0f);
  EXPECT_EQ(find_change(adapter, "context_embedder")->update->scale, 0.25f);
}

TEST(AdapterNotes, ThatCannotBeUnderstood) {
  const auto refusal = [](const std::string& note) {
    MadeFile file;
    file.add_pair("transformer.x_embedder", 8, 4, 4, "lora_A", "lora_B");
    return file.note("lora_adapter_metadata", note).refusal();
  };
  EXPECT_TRUE(says(refusal("{"), "made: metadata 'lora_adapter_metadata' is no JSON object"));
  EXPECT_TRUE(says(refusal("[1]"), "is no JSON object"));
  EXPECT_TRUE(says(refusal(std::string(100, '[')), "is no JSON object"));
  EXPECT_TRUE(says(refusal(R"({"transformer.lora_alpha":"8"})"),
                   "'transformer.lora_alpha' is \"8\", expected a finite number; save"));
  EXPECT_TRUE(says(refusal(R"({"transformer.lora_alpha":1e300})"), "expected a finite number"));
  EXPECT_TRUE(says(refusal(R"({"transformer.use_rslora":1})"), "expected true or false"));
  EXPECT_TRUE(says(refusal(R"({"transformer.alpha_pattern":{"x.*":1}})"),
                   "expected names of modules, not patterns of them"));
  EXPECT_EQ(refusal(R"({"transformer.r":4,"other":{"a":[1]}})"), "accepted");
  // What is only shown does not matter.
  MadeFile file;
  file.add_pair(kOut, 8, 8, 2).note("ss_tag_frequency", std::string(1000, '['));
  EXPECT_EQ(file.refusal(), "accepted");
}

}  // namespace
}  // namespace flux
