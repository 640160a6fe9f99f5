// Latent attention on the CPU backend against the paper's definition, which expands keys and values
// for every head and position, in float64.
#include "computed/model/latent_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "computed/runtime/cpu_backend.h"

namespace gguf_offload {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr double kFrequencyBase = 100;

using Vector = std::vector<double>;

// W x, where W is (rows, x.size()) and begins at `weight`.
Vector Multiply(const float* weight, size_t rows, const Vector& x) {
  Vector y(rows);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < x.size(); ++c) y[r] += weight[r * x.size() + c] * x[c];
  }
  return y;
}

Vector Normalize(const float* weight, const Vector& x) {
  double squares = 0;
  for (double value : x) squares += value * value;
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = x[i] / std::sqrt(squares / x.size() + kEpsilon) * weight[i];
  }
  return y;
}

// Rotates pairs of neighbours.
void Rotate(int position, double* x, int dims) {
  for (int i = 0; i < dims; i += 2) {
    const double angle = position * std::pow(kFrequencyBase, -1.0 * i / dims);
    const double a = x[i], b = x[i + 1];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + 1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

// A layer's weights in float32, with the projections from the latent vector in both forms.
struct TestLayer {
  TestLayer(int heads, int64_t embedding, const LatentShape& latent, uint32_t seed) : random(seed) {
    shape.embedding = embedding;
    shape.heads = heads;
    shape.latent = latent;
    shape.kv_heads = 1;
    shape.key_dim = latent.kv_rank + latent.rope_dim;
    shape.value_dim = latent.kv_rank;
    shape.norm_epsilon = kEpsilon;
    const int64_t queries = heads * latent.key_dim();
    AddNorm(kAttentionNorm, embedding);
    if (latent.query_rank > 0) {
      Add(kAttentionQA, latent.query_rank, embedding);
      AddNorm(kAttentionQANorm, latent.query_rank);
      Add(kAttentionQB, queries, latent.query_rank);
    } else {
      Add(kAttentionQ, queries, embedding);
    }
    Add(kAttentionKvA, latent.kv_rank + latent.rope_dim, embedding);
    AddNorm(kAttentionKvANorm, latent.kv_rank);
    Add(kAttentionKvB, heads * (latent.plain_dim + latent.value_dim), latent.kv_rank);
    Add(kAttentionKB, latent.kv_rank, latent.plain_dim, heads);
    Add(kAttentionVB, latent.value_dim, latent.kv_rank, heads);
    Add(kAttentionOutput, embedding, heads * latent.value_dim);
    SplitCombined();
  }

  // The split projections become those of the combined one.
  void SplitCombined() {
    const LatentShape& latent = shape.latent;
    const float* combined = weights[kAttentionKvB].floats();
    float* k = const_cast<float*>(weights[kAttentionKB].floats());
    float* v = const_cast<float*>(weights[kAttentionVB].floats());
    for (int head = 0; head < shape.heads; ++head) {
      for (int64_t c = 0; c < latent.kv_rank; ++c) {
        for (int64_t r = 0; r < latent.plain_dim; ++r) {
          k[(head * latent.kv_rank + c) * latent.plain_dim + r] = combined[r * latent.kv_rank + c];
        }
        for (int64_t r = 0; r < latent.value_dim; ++r) {
          v[(head * latent.value_dim + r) * latent.kv_rank + c] =
              combined[(latent.plain_dim + r) * latent.kv_rank + c];
        }
      }
      combined += (latent.plain_dim + latent.value_dim) * latent.kv_rank;
    }
  }

  void Add(TensorId id, int64_t rows, int64_t columns, int64_t matrices = 1) {
    std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(columns)));
    std::vector<float>& values = memory.emplace_back(rows * columns * matrices);
    for (float& value : values) value = normal(random);
    weights[id] = {quant::TensorType::kF32, reinterpret_cast<const uint8_t*>(values.data()),
                   columns, rows, matrices};
  }
  void AddNorm(TensorId id, int64_t columns) {
    Add(id, 1, columns);
    for (float& value : memory.back()) value += 1;
  }

  const float* operator[](TensorId id) const { return weights[id].floats(); }

  std::mt19937 random;
  TransformerShape shape;
  std::deque<std::vector<float>> memory;
  LayerWeights weights;
};

// What the layer's attention adds to each row of `residual` (positions, embedding), by definition.
std::vector<Vector> Expanded(const TestLayer& layer, float scale,
                             const std::vector<Vector>& residual) {
  const LatentShape& latent = layer.shape.latent;
  const int heads = layer.shape.heads;
  std::vector<Vector> latents, shared_keys, out;
  for (int position = 0; position < static_cast<int>(residual.size()); ++position) {
    const Vector hidden = Normalize(layer[kAttentionNorm], residual[position]);
    const Vector key = Multiply(layer[kAttentionKvA], latent.kv_rank + latent.rope_dim, hidden);
    const auto rotated = key.begin() + latent.kv_rank;
    latents.push_back(Normalize(layer[kAttentionKvANorm], Vector(key.begin(), rotated)));
    shared_keys.emplace_back(rotated, key.end());
    Rotate(position, shared_keys.back().data(), latent.rope_dim);

    const size_t queries = heads * latent.key_dim();
    Vector query;
    if (latent.query_rank > 0) {
      const Vector small = Multiply(layer[kAttentionQA], latent.query_rank, hidden);
      query = Multiply(layer[kAttentionQB], queries, Normalize(layer[kAttentionQANorm], small));
    } else {
      query = Multiply(layer[kAttentionQ], queries, hidden);
    }
    Vector values;
    for (int head = 0; head < heads; ++head) {
      double* q = &query[head * latent.key_dim()];
      Rotate(position, q + latent.plain_dim, latent.rope_dim);
      const float* up_keys =
          layer[kAttentionKvB] + head * (latent.plain_dim + latent.value_dim) * latent.kv_rank;
      const float* up_values = up_keys + latent.plain_dim * latent.kv_rank;
      Vector sum(latent.value_dim);
      double weights = 0;
      for (int j = 0; j <= position; ++j) {
        const Vector k = Multiply(up_keys, latent.plain_dim, latents[j]);
        double score = 0;
        for (int64_t i = 0; i < latent.plain_dim; ++i) score += q[i] * k[i];
        for (int64_t i = 0; i < latent.rope_dim; ++i) {
          score += q[latent.plain_dim + i] * shared_keys[j][i];
        }
        const double weight = std::exp(scale * score);
        weights += weight;
        const Vector v = Multiply(up_values, latent.value_dim, latents[j]);
        for (int64_t i = 0; i < latent.value_dim; ++i) sum[i] += weight * v[i];
      }
      for (double value : sum) values.push_back(value / weights);
    }
    out.push_back(Multiply(layer[kAttentionOutput], layer.shape.embedding, values));
  }
  return out;
}

// The same by LatentAttention in steps of `pieces` rows; (positions * embedding).
std::vector<float> Computed(const TestLayer& layer, LatentForm form, float scale,
                            const std::vector<Vector>& residual, const std::vector<int>& pieces,
                            int threads) {
  const TransformerShape& shape = layer.shape;
  const LatentShape& latent = shape.latent;
  CpuBackend backend(threads, ActivationType::kFloat32);
  const int rows = static_cast<int>(residual.size());
  StepActivations all;
  const auto allocate = [&](Matrix& matrix, int64_t columns) {
    if (columns > 0) matrix = *backend.AllocateMatrix(rows, columns, "test");
  };
  allocate(all.residual, shape.embedding);
  allocate(all.hidden, shape.embedding);
  allocate(all.query, shape.heads * shape.key_dim);
  allocate(all.key, shape.key_dim);
  allocate(all.attention, shape.heads * shape.value_dim);
  allocate(all.query_latent, latent.query_rank);
  allocate(all.head_query, shape.heads * latent.key_dim());
  allocate(all.head_value, shape.heads * latent.value_dim);
  EXPECT_TRUE(backend
                  .AllocateKvCache({.layers = 1,
                                    .kv_heads = 1,
                                    .key_dim = shape.key_dim,
                                    .value_dim = shape.value_dim,
                                    .values_in_keys = true},
                                   4)
                  .ok());
  // One copy: the latent vector and the rotated key of 4 pages of 32 positions.
  EXPECT_LT(backend.kv_cache_bytes(), 4 * 32 * shape.key_dim * sizeof(float) + 64);

  const RopeFrequencies frequencies({.rope_dims = static_cast<int>(latent.rope_dim),
                                     .freq_base = static_cast<float>(kFrequencyBase)});
  std::vector<float> out;
  for (int first = 0, piece = 0; first < rows; first += pieces[piece++]) {
    const int n = pieces[piece];
    StepBatch batch;
    for (int i = 0; i < n; ++i) {
      batch.tokens.push_back(0);
      batch.positions.push_back(first + i);
    }
    batch.sequences.push_back({0, n, first, {2, 0, 3, 1}});
    StepActivations step = all;
    for (Matrix* matrix : {&step.residual, &step.hidden, &step.query, &step.key, &step.attention,
                           &step.query_latent, &step.head_query, &step.head_value}) {
      *matrix = matrix->Rows(n);
    }
    for (int i = 0; i < n; ++i) {
      std::copy(residual[first + i].begin(), residual[first + i].end(),
                step.residual.data + i * step.residual.stride);
    }
    backend.BeginStep(batch);
    LatentAttention(backend, 0, shape, {.form = form, .scale = scale}, frequencies, layer.weights,
                    step);
    for (int i = 0; i < n; ++i) {
      const float* row = step.hidden.data + i * step.hidden.stride;
      out.insert(out.end(), row, row + shape.embedding);
    }
  }
  return out;
}

struct Case {
  const char* what;
  int heads;
  int64_t embedding;
  LatentShape latent;
};

TEST(LatentAttentionTest, BothFormsAgreeWithTheExpandedDefinition) {
  const Case cases[] = {
      {"as in the files",
       4,
       64,
       {.query_rank = 48, .kv_rank = 64, .plain_dim = 32, .rope_dim = 16, .value_dim = 32}},
      {"odd",
       3,
       37,
       {.query_rank = 23, .kv_rank = 29, .plain_dim = 11, .rope_dim = 6, .value_dim = 7}},
      {"direct queries",
       5,
       40,
       {.query_rank = 0, .kv_rank = 24, .plain_dim = 8, .rope_dim = 4, .value_dim = 9}},
      {"many heads",
       40,
       32,
       {.query_rank = 16, .kv_rank = 16, .plain_dim = 1, .rope_dim = 2, .value_dim = 1}},
  };
  constexpr int kRows = 70;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.what);
    TestLayer layer(c.heads, c.embedding, c.latent, 5);
    std::normal_distribution<float> normal;
    std::vector<Vector> residual(kRows, Vector(c.embedding));
    for (Vector& row : residual) {
      for (double& value : row) value = normal(layer.random);
    }
    const float scale = 1.3f / std::sqrt(static_cast<float>(c.latent.key_dim()));
    const std::vector<Vector> expected = Expanded(layer, scale, residual);
    for (LatentForm form : {LatentForm::kSplit, LatentForm::kCombined}) {
      SCOPED_TRACE(form == LatentForm::kSplit ? "split" : "combined");
      const std::vector<float> whole = Computed(layer, form, scale, residual, {kRows}, 1);
      double error = 0, norm = 0;
      for (int i = 0; i < kRows; ++i) {
        for (int64_t j = 0; j < c.embedding; ++j) {
          const double difference = whole[i * c.embedding + j] - expected[i][j];
          error += difference * difference;
          norm += expected[i][j] * expected[i][j];
        }
      }
      // Negated, so that NaN fails.
      EXPECT_FALSE(!(error <= 1e-11 * norm)) << error / norm;
      EXPECT_TRUE(whole == Computed(layer, form, scale, residual, {1, 2, 31, 1, 8, 25, 1, 1}, 3));
    }
  }
}

v1::Manifest YarnManifest(double log_multiplier) {
  v1::Manifest manifest;
  manifest.set_name("yarn");
  manifest.set_architecture("deepseek2");
  auto& metadata = *manifest.mutable_metadata();
  metadata["deepseek2.rope.dimension_count"].set_unsigned_value(64);
  metadata["deepseek2.rope.scaling.type"].set_string_value("yarn");
  metadata["deepseek2.rope.scaling.factor"].set_float_value(40);
  metadata["deepseek2.rope.scaling.original_context_length"].set_unsigned_value(4096);
  metadata["deepseek2.rope.scaling.yarn_log_multiplier"].set_float_value(log_multiplier);
  return manifest;
}

// The figures of DeepSeek's own modeling code: mscale = 0.1 * mscale_all_dim * ln(factor) + 1, the
// softmax's scale is multiplied by its square, and the rotation keeps the magnitude.
TEST(LatentAttentionTest, YarnScalesAllScoresAndKeepsTheMagnitudeOfTheRotatedPart) {
  TransformerShape shape;
  shape.context = 163840;
  shape.latent = {.kv_rank = 512, .plain_dim = 128, .rope_dim = 64, .value_dim = 128};
  for (double all_dim : {1.0, 0.707}) {  // V3, V2-Lite
    LatentTraits traits;
    const auto rope = ReadLatentRope(YarnManifest(0.1 * all_dim), shape, traits);
    ASSERT_TRUE(rope.ok()) << rope.status();
    const double m = 0.1 * all_dim * std::log(40.0) + 1.0;
    EXPECT_NEAR(traits.scale, m * m / std::sqrt(192.0), 1e-7);
    EXPECT_NEAR(RopeFrequencies(*rope).magnitude(), 1.0, 1e-6);
  }
}

TEST(LatentAttentionTest, WithoutYarnTheScaleIsTheUsualOne) {
  TransformerShape shape;
  shape.context = 4096;
  shape.latent = {.kv_rank = 512, .plain_dim = 128, .rope_dim = 64, .value_dim = 128};
  v1::Manifest manifest = YarnManifest(0.1);
  manifest.mutable_metadata()->erase("deepseek2.rope.scaling.type");
  manifest.mutable_metadata()->erase("deepseek2.rope.scaling.factor");
  LatentTraits traits;
  const auto rope = ReadLatentRope(manifest, shape, traits);
  ASSERT_TRUE(rope.ok()) << rope.status();
  EXPECT_NEAR(traits.scale, 1 / std::sqrt(192.0), 1e-8);
  EXPECT_EQ(RopeFrequencies(*rope).magnitude(), 1.0f);
}

}  // namespace
}  // namespace gguf_offload
