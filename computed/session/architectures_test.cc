// Tiny models of many architectures against llama.cpp's logits: those that are run must match, the
// others must be refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fixtures/golden_models.h"
#include "tests/fixtures/recipe_models.h"

namespace gguf_offload {
namespace {

std::string PathOf(const std::string& name) {
  return absl::StrCat(::testing::TempDir(), "/", name, ".gguf");
}

void Check(ActivationPrecision activations, FileWeightSource::Mode mode, uint64_t memory_budget) {
  const bool exact = activations == ActivationPrecision::kFloat32;
  for (const std::string& name : MatchingRecipes()) {
    SCOPED_TRACE(name);
    auto recipe = WriteRecipeModel(name, PathOf(name));
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    auto model = RunningModel::Create(PathOf(name), {.mode = mode,
                                                     .activations = activations,
                                                     .step_tokens = 160,
                                                     .memory_budget = memory_budget});
    ASSERT_TRUE(model.ok()) << model.status();
    const std::vector<float> logits = SequenceRunner(**model).Step(recipe->tokens);
    const double nmse = exact ? Nmse(logits, recipe->logits)
                              : MedianRowNmse(logits, recipe->logits, recipe->columns);
    // Written so that NaN fails.
    EXPECT_TRUE(nmse <= (exact ? 1e-5 : 5e-3)) << nmse;
    std::printf("%-20s nmse %.3g\n", name.c_str(), nmse);
  }
}

TEST(ArchitecturesTest, MatchWithFloat32Activations) {
  Check(ActivationPrecision::kFloat32, FileWeightSource::Mode::kShared, uint64_t{1} << 40);
}

TEST(ArchitecturesTest, MatchWithInt8Activations) {
  Check(ActivationPrecision::kInt8, FileWeightSource::Mode::kShared, uint64_t{1} << 40);
}

TEST(ArchitecturesTest, MatchWhereWeightsAreFetched) {
  Check(ActivationPrecision::kFloat32, FileWeightSource::Mode::kStreamed, uint64_t{1} << 40);
}

// The head's bias, of a head of its own (llama) and of one that is the embedding (qwen3).
TEST(ArchitecturesTest, TheHeadMayHaveABias) {
  for (const std::string name : {"llama", "qwen3"}) {
    SCOPED_TRACE(name);
    const ExtraVector bias = {"output.bias", 128, 3.0};
    auto recipe = WriteRecipeModel(name, PathOf(name), {bias});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    ASSERT_EQ(recipe->columns, bias.columns);
    auto model = RunningModel::Create(PathOf(name), {});
    ASSERT_TRUE(model.ok()) << model.status();
    const std::vector<float> logits = SequenceRunner(**model).Step(recipe->tokens);
    const std::vector<float> added = ValuesOf(bias);
    std::vector<float> expected = recipe->logits;
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += added[i % added.size()];
    EXPECT_LE(Nmse(logits, expected), 1e-10);
  }
}

TEST(ArchitecturesTest, OthersAreRefused) {
  const std::vector<std::string> matching = MatchingRecipes();
  int refused = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kRecipeFolder)) {
    if (entry.path().extension() != ".json") continue;
    const std::string name = entry.path().stem();
    if (std::find(matching.begin(), matching.end(), name) != matching.end()) continue;
    SCOPED_TRACE(name);
    ASSERT_TRUE(WriteRecipeModel(name, PathOf(name)).ok());
    const absl::Status status = RunningModel::Create(PathOf(name), {}).status();
    EXPECT_TRUE(absl::IsUnimplemented(status) || absl::IsInvalidArgument(status)) << status;
    ++refused;
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace gguf_offload
