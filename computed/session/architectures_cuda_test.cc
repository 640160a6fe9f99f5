// Tiny models of many architectures on the GPU against llama.cpp's logits: those that
// architectures_test.cc has on the CPU.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/fixtures/golden_models.h"
#include "tests/fixtures/recipe_models.h"
#include "third_party/cuda/device_available.h"

namespace gguf_offload {
namespace {

class ArchitecturesCudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::DeviceAvailable()) GTEST_SKIP() << "no CUDA device";
  }

  static void Check(RunningModel::Options options) {
    options.cuda = true;
    options.step_tokens = 64;
    for (const std::string& name : MatchingRecipes()) {
      SCOPED_TRACE(name);
      const std::string path = absl::StrCat(::testing::TempDir(), "/", name, ".gguf");
      auto recipe = WriteRecipeModel(name, path);
      ASSERT_TRUE(recipe.ok()) << recipe.status();
      auto model = RunningModel::Create(path, options);
      ASSERT_TRUE(model.ok()) << model.status();
      // In one step, and then token by token, which is other kernels' work.
      SequenceRunner runner(**model);
      const size_t half = recipe->tokens.size() / 2;
      std::vector<float> logits =
          runner.Step({recipe->tokens.begin(), recipe->tokens.begin() + half});
      for (size_t i = half; i < recipe->tokens.size(); ++i) {
        const std::vector<float> row = runner.Step({recipe->tokens[i]});
        logits.insert(logits.end(), row.begin(), row.end());
      }
      const double nmse = MedianRowNmse(logits, recipe->logits, recipe->columns);
      // Written so that NaN fails.
      EXPECT_TRUE(nmse <= 5e-3) << nmse;
      std::printf("%-20s nmse %.3g\n", name.c_str(), nmse);
    }
  }
};

TEST_F(ArchitecturesCudaTest, MatchIn8Bits) { Check({.activations = ActivationPrecision::kInt8}); }

TEST_F(ArchitecturesCudaTest, TheHeadMayHaveABias) {
  const ExtraVector bias = {"output.bias", 128, 3.0};
  const std::string path = absl::StrCat(::testing::TempDir(), "/bias.gguf");
  auto recipe = WriteRecipeModel("llama", path, {bias});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  auto model = RunningModel::Create(path, {.cuda = true,
                                           .activations = ActivationPrecision::kInt8,
                                           .step_tokens = 64});
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<float> logits = SequenceRunner(**model).Step(recipe->tokens);
  const std::vector<float> added = ValuesOf(bias);
  std::vector<float> expected = recipe->logits;
  for (size_t i = 0; i < expected.size(); ++i) expected[i] += added[i % added.size()];
  EXPECT_TRUE(MedianRowNmse(logits, expected, recipe->columns) <= 5e-3);
}

TEST_F(ArchitecturesCudaTest, MatchInHalfPrecision) {
  Check({.activations = ActivationPrecision::kFloat16});
}

TEST_F(ArchitecturesCudaTest, MatchWhereExpertsAreFetched) {
  Check({.activations = ActivationPrecision::kInt8, .expert_cache = 0});
}

TEST_F(ArchitecturesCudaTest, MatchWhereLayersAreStreamedFromTheNetwork) {
  Check({.mode = FileWeightSource::Mode::kStreamed,
         .activations = ActivationPrecision::kInt8,
         .resident_weights = 0});
}

}  // namespace
}  // namespace gguf_offload
