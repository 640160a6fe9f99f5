#include "weightd/service/weight_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "weightd/service/testing/test_daemon.h"
#include "weightd/store/testing/temp_folder.h"

namespace gguf_offload {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr char kLlama[] = "tests/testdata/golden/models/llama-kq.gguf";

std::string FileBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class WeightServiceTest : public ::testing::Test {
 protected:
  WeightServiceTest()
      : mine_(folder_.Write("mine.gguf", TwoTensorModel(3 << 20))),
        daemon_({.models = {{"llama", kLlama},
                            {"missing", folder_.Path("missing.gguf")},
                            {"mine", mine_}},
                 .flags = {{"listen", "here"}}}) {}

  template <typename Method, typename Request, typename Response>
  grpc::Status Call(Method method, const Request& request, Response& response) {
    grpc::ClientContext context;
    return (daemon_.weights().*method)(&context, request, &response);
  }
  grpc::Status Load(const std::string& model, const std::string& path) {
    v1::LoadModelRequest request;
    request.set_model(model);
    request.set_path(path);
    v1::LoadModelResponse response;
    return Call(&v1::WeightService::Stub::LoadModel, request, response);
  }
  v1::ModelStatus Status(const std::string& model) {
    v1::GetModelRequest request;
    request.set_model(model);
    v1::GetModelResponse response;
    const grpc::Status status = Call(&v1::WeightService::Stub::GetModel, request, response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }
  grpc::Status ReadTensor(const v1::ReadBlocksRequest& request, std::string& bytes) {
    grpc::ClientContext context;
    const auto reader = daemon_.weights().ReadBlocks(&context, request);
    v1::ReadBlocksResponse response;
    while (reader->Read(&response)) {
      EXPECT_EQ(response.offset(), request.offset() + bytes.size());
      EXPECT_LE(response.data().size(), size_t{1} << 20);
      bytes += response.data();
    }
    return reader->Finish();
  }
  grpc::Status Verify(const std::string& model, std::vector<v1::VerifyModelResponse>& reports) {
    grpc::ClientContext context;
    v1::VerifyModelRequest request;
    request.set_model(model);
    const auto reader = daemon_.weights().VerifyModel(&context, request);
    v1::VerifyModelResponse report;
    while (reader->Read(&report)) reports.push_back(report);
    return reader->Finish();
  }

  store::TempFolder folder_;
  std::string mine_;
  TestDaemon daemon_;
};

TEST_F(WeightServiceTest, ListsLoadedAndFailedModels) {
  v1::ListModelsResponse response;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::ListModels, v1::ListModelsRequest(), response).ok());
  ASSERT_EQ(response.models_size(), 3);
  EXPECT_EQ(response.models(0).name(), "llama");
  EXPECT_EQ(response.models(0).state(), v1::MODEL_STATE_READY);
  EXPECT_EQ(response.models(0).architecture(), "llama");
  EXPECT_EQ(response.models(0).bytes(), FileBytes(kLlama).size());
  EXPECT_EQ(response.models(1).name(), "mine");
  EXPECT_EQ(response.models(2).name(), "missing");
  EXPECT_EQ(response.models(2).state(), v1::MODEL_STATE_FAILED);
  EXPECT_THAT(response.models(2).error(), HasSubstr("missing.gguf"));
}

TEST_F(WeightServiceTest, GetModelElidesVocabulariesUnlessAsked) {
  v1::GetModelRequest request;
  request.set_model("llama");
  v1::GetModelResponse brief, full;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::GetModel, request, brief).ok());
  request.set_include_arrays(true);
  ASSERT_TRUE(Call(&v1::WeightService::Stub::GetModel, request, full).ok());
  EXPECT_EQ(brief.manifest().tensors_size(), 0);
  EXPECT_EQ(brief.manifest().generation(), brief.status().generation());
  EXPECT_EQ(brief.manifest().metadata_size(), full.manifest().metadata_size());
  EXPECT_LT(brief.ByteSizeLong(), full.ByteSizeLong());
}

TEST_F(WeightServiceTest, UnknownModelsAreNotFound) {
  v1::GetModelRequest get;
  get.set_model("nobody");
  v1::GetModelResponse response;
  EXPECT_EQ(Call(&v1::WeightService::Stub::GetModel, get, response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  std::vector<v1::VerifyModelResponse> reports;
  EXPECT_EQ(Verify("nobody", reports).error_code(), grpc::StatusCode::NOT_FOUND);
  std::string bytes;
  v1::ReadBlocksRequest read;
  read.set_model("llama");
  read.set_tensor("no.such.tensor");
  EXPECT_EQ(ReadTensor(read, bytes).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(WeightServiceTest, ListsTensorsInPages) {
  v1::ListTensorsRequest request;
  request.set_model("llama");
  v1::ListTensorsResponse all;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::ListTensors, request, all).ok());
  EXPECT_EQ(all.tensors_size(), 21);
  EXPECT_EQ(all.next_page_token(), "");

  request.set_page_size(4);
  std::vector<std::string> names;
  do {
    v1::ListTensorsResponse page;
    ASSERT_TRUE(Call(&v1::WeightService::Stub::ListTensors, request, page).ok());
    EXPECT_LE(page.tensors_size(), 4);
    for (const v1::TensorInfo& tensor : page.tensors()) names.push_back(tensor.name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  ASSERT_EQ(names.size(), 21u);
  for (int i = 0; i < 21; ++i) EXPECT_EQ(names[i], all.tensors(i).name());

  request.set_page_token("forged");
  v1::ListTensorsResponse page;
  EXPECT_EQ(Call(&v1::WeightService::Stub::ListTensors, request, page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  request.clear_page_token();
  request.set_page_size(-1);
  EXPECT_EQ(Call(&v1::WeightService::Stub::ListTensors, request, page).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WeightServiceTest, ReadBlocksReturnsTheFilesBytes) {
  const std::string file = FileBytes(kLlama);
  v1::ListTensorsRequest list;
  list.set_model("llama");
  v1::ListTensorsResponse tensors;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::ListTensors, list, tensors).ok());
  for (const v1::TensorInfo& tensor : tensors.tensors()) {
    v1::ReadBlocksRequest request;
    request.set_model("llama");
    request.set_tensor(tensor.name());
    std::string bytes;
    ASSERT_TRUE(ReadTensor(request, bytes).ok());
    EXPECT_EQ(bytes, file.substr(tensor.offset(), tensor.bytes())) << tensor.name();
  }
}

// Their bytes can be read and verified like any others'.
TEST_F(WeightServiceTest, Cases16And18_EmptyTensorsAndUnknownTypesAreServed) {
  const std::string data = gguf::GgufBuilder::Pattern(100);
  const std::string path = folder_.Write("odd.gguf", gguf::GgufBuilder()
                                                         .RawTensor("known", {8}, 0, 0)
                                                         .RawTensor("strange", {8}, 142, 32)
                                                         .RawTensor("empty", {3, 0}, 0, 96)
                                                         .Data(data)
                                                         .Build());
  ASSERT_TRUE(Load("mine", path).ok());
  v1::ListTensorsRequest list;
  list.set_model("mine");
  v1::ListTensorsResponse tensors;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::ListTensors, list, tensors).ok());
  ASSERT_EQ(tensors.tensors_size(), 3);
  EXPECT_EQ(tensors.tensors(1).type_name(), "UNKNOWN_142");
  const std::string expected[] = {data.substr(0, 32), data.substr(32), ""};
  for (int i = 0; i < 3; ++i) {
    v1::ReadBlocksRequest request;
    request.set_model("mine");
    request.set_tensor(tensors.tensors(i).name());
    std::string bytes;
    const grpc::Status status = ReadTensor(request, bytes);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(bytes, expected[i]) << request.tensor();
    request.set_offset(expected[i].size());
    request.set_bytes(1);
    EXPECT_EQ(ReadTensor(request, bytes).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  std::vector<v1::VerifyModelResponse> reports;
  ASSERT_TRUE(Verify("mine", reports).ok());
  ASSERT_EQ(reports.size(), 4u);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reports[i].xxh64(), XXH64(expected[i].data(), expected[i].size(), 0)) << i;
  }
  EXPECT_EQ(reports[3].bytes_done(), 100u);
}

TEST_F(WeightServiceTest, ReadBlocksSplitsLargeRangesAndTakesPartialOnes) {
  using gguf::GgufBuilder;
  const std::string large = GgufBuilder::Pattern(3 << 20, 2);
  v1::ReadBlocksRequest request;
  request.set_model("mine");
  request.set_tensor("large");
  std::string bytes;
  ASSERT_TRUE(ReadTensor(request, bytes).ok());
  EXPECT_TRUE(bytes == large);
  request.set_offset(12345);
  request.set_bytes(2000000);
  bytes.clear();
  ASSERT_TRUE(ReadTensor(request, bytes).ok());
  EXPECT_TRUE(bytes == large.substr(12345, 2000000));
}

TEST_F(WeightServiceTest, Case33_ReadBlocksRefusesRangesThatWrap) {
  v1::ReadBlocksRequest request;
  request.set_model("mine");
  request.set_tensor("small");
  const uint64_t bad[][2] = {{1001, 0},       {0, 1001},           {1, UINT64_MAX},
                             {UINT64_MAX, 2}, {UINT64_MAX - 1, 0}, {500, UINT64_MAX - 499}};
  for (const auto& [offset, bytes] : bad) {
    request.set_offset(offset);
    request.set_bytes(bytes);
    std::string read;
    EXPECT_EQ(ReadTensor(request, read).error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << offset << " " << bytes;
    EXPECT_THAT(read, IsEmpty());
  }
}

TEST_F(WeightServiceTest, Case27_VerifyModelFindsAFlippedBit) {
  std::vector<v1::VerifyModelResponse> before, after;
  ASSERT_TRUE(Verify("mine", before).ok());
  ASSERT_EQ(before.size(), 3u);
  EXPECT_EQ(before[0].tensor(), "small");
  const std::string small = gguf::GgufBuilder::Pattern(1000, 1);
  EXPECT_EQ(before[0].xxh64(), XXH64(small.data(), small.size(), 0));
  EXPECT_FALSE(before[0].changed() || before[1].changed());
  EXPECT_TRUE(before[2].done());
  EXPECT_EQ(before[2].bytes_done(), before[2].bytes_total());
  EXPECT_EQ(before[2].bytes_total(), 1000u + (3 << 20));
  const uint64_t hashes[2] = {before[0].xxh64(), before[1].xxh64()};
  EXPECT_EQ(before[2].model_xxh64(), XXH64(hashes, sizeof(hashes), 0));

  const std::string file = FileBytes(mine_);
  const size_t at = file.size() - 1000000;
  folder_.Overwrite("mine.gguf", static_cast<off_t>(at),
                    std::string(1, static_cast<char>(file[at] ^ 4)));
  ASSERT_TRUE(Verify("mine", after).ok());
  ASSERT_EQ(after.size(), 3u);
  EXPECT_FALSE(after[0].changed());
  EXPECT_TRUE(after[1].changed());
  EXPECT_NE(after[1].xxh64(), before[1].xxh64());
  EXPECT_EQ(after[2].changed_tensors(), 1u);
  EXPECT_NE(after[2].model_xxh64(), before[2].model_xxh64());
  EXPECT_TRUE(Status("mine").modified_in_place());
}

TEST_F(WeightServiceTest, Case28_ATruncatedFileIsDataLossAndTheDaemonLives) {
  folder_.Truncate("mine.gguf", 8192);
  v1::ReadBlocksRequest request;
  request.set_model("mine");
  request.set_tensor("large");
  std::string bytes;
  EXPECT_EQ(ReadTensor(request, bytes).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(Status("mine").state(), v1::MODEL_STATE_QUARANTINED);
  std::vector<v1::VerifyModelResponse> reports;
  EXPECT_EQ(Verify("mine", reports).error_code(), grpc::StatusCode::DATA_LOSS);
  request.set_model("llama");
  request.set_tensor("token_embd.weight");
  EXPECT_TRUE(ReadTensor(request, bytes).ok());
}

TEST_F(WeightServiceTest, LoadingIsLimitedToKnownFolders) {
  store::TempFolder elsewhere;
  const std::string outside = elsewhere.Write("outside.gguf", TwoTensorModel(100));
  EXPECT_EQ(Load("outside", outside).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  ASSERT_EQ(symlink(outside.c_str(), folder_.Path("link.gguf").c_str()), 0);
  EXPECT_EQ(Load("link", folder_.Path("link.gguf")).error_code(),
            grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Load("up", folder_.path() + "/../" + elsewhere.path().substr(1)).ok(), false);
  folder_.Write("inside.gguf", TwoTensorModel(100));
  EXPECT_TRUE(Load("inside", folder_.Path("inside.gguf")).ok());
  EXPECT_EQ(Status("inside").state(), v1::MODEL_STATE_READY);
  EXPECT_EQ(Load("", folder_.Path("inside.gguf")).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(WeightServiceTest, LoadingPathsIsRefusedWithoutAnyFolder) {
  const TestDaemon bare({});
  grpc::ClientContext context;
  v1::LoadModelRequest request;
  request.set_model("mine");
  request.set_path(mine_);
  v1::LoadModelResponse response;
  EXPECT_EQ(
      const_cast<TestDaemon&>(bare).weights().LoadModel(&context, request, &response).error_code(),
      grpc::StatusCode::PERMISSION_DENIED);
}

TEST_F(WeightServiceTest, UnloadedModelsAreGone) {
  v1::UnloadModelRequest request;
  request.set_model("mine");
  v1::UnloadModelResponse response;
  ASSERT_TRUE(Call(&v1::WeightService::Stub::UnloadModel, request, response).ok());
  EXPECT_EQ(response.leases(), 0u);
  EXPECT_EQ(Call(&v1::WeightService::Stub::UnloadModel, request, response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(WeightServiceTest, Case43_MessagesOverTheLimitAreRefused) {
  // On a connection of its own, as the rest of the message may hold up calls that share it.
  const auto stub = v1::WeightService::NewStub(TestDaemon::NewChannel(daemon_.tcp_address()));
  grpc::ClientContext context;
  v1::GetModelRequest request;
  request.set_model(std::string(5 << 20, 'x'));
  v1::GetModelResponse response;
  EXPECT_EQ(stub->GetModel(&context, request, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Status("mine").state(), v1::MODEL_STATE_READY);
}

TEST_F(WeightServiceTest, Diagnostics) {
  v1::DiagnosticsService::Stub& stub = daemon_.diagnostics();
  {
    grpc::ClientContext context;
    v1::GetBuildInfoResponse response;
    ASSERT_TRUE(stub.GetBuildInfo(&context, {}, &response).ok());
    EXPECT_EQ(response.program(), "weightd");
    EXPECT_EQ(response.grpc_version(), grpc::Version());
  }
  {
    grpc::ClientContext context;
    v1::GetConfigResponse response;
    ASSERT_TRUE(stub.GetConfig(&context, {}, &response).ok());
    EXPECT_EQ(response.flags().at("listen"), "here");
  }
  {
    grpc::ClientContext context;
    v1::GetMemoryResponse response;
    ASSERT_TRUE(stub.GetMemory(&context, {}, &response).ok());
    ASSERT_EQ(response.uses_size(), 2);
    EXPECT_EQ(response.uses(0).purpose(), "mapped model llama");
    EXPECT_GT(response.resident_bytes(), response.private_bytes());
  }
  {
    grpc::ClientContext context;
    v1::PingRequest request;
    request.set_payload("hello");
    v1::PingResponse response;
    ASSERT_TRUE(stub.Ping(&context, request, &response).ok());
    EXPECT_EQ(response.payload(), "hello");
    EXPECT_FALSE(response.draining());
  }
  {
    grpc::ClientContext context;
    v1::GetPlacementResponse response;
    const grpc::Status status = stub.GetPlacement(&context, {}, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_THAT(status.error_message(), HasSubstr("compute worker"));
  }
  {
    grpc::ClientContext context;
    const auto reader = stub.CaptureTrace(&context, {});
    v1::CaptureTraceResponse response;
    EXPECT_FALSE(reader->Read(&response));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
}

}  // namespace
}  // namespace gguf_offload
