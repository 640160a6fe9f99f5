// offloadctl placement: where a worker keeps its tensors and what a step must move.
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

std::string PlaceName(v1::Place place) {
  std::string name = v1::Place_Name(place);
  name = absl::AsciiStrToLower(absl::StripPrefix(name, "PLACE_"));
  return absl::StrReplaceAll(name, {{"_", " "}});
}

std::string LayerName(int32_t layer) { return layer < 0 ? "-" : absl::StrCat(layer); }

void PrintTensors(const v1::GetPlacementResponse& placement) {
  Table table({">LAYER", "TENSOR", "TYPE", ">SIZE", "PLACE"});
  for (const v1::TensorPlacement& tensor : placement.tensors()) {
    table.Add({LayerName(tensor.layer()), tensor.name(), tensor.type_name(),
               HumanBytes(tensor.bytes()), PlaceName(tensor.place())});
  }
  Print(table.ToString());
}

// What a layer keeps in one place.
struct Share {
  uint64_t tensors = 0;
  uint64_t bytes = 0;
  std::set<std::string> types;

  bool operator==(const Share&) const = default;
};

using LayerShares = std::map<v1::Place, Share>;

void AddRows(int32_t first, int32_t last, const LayerShares& shares, Table& table) {
  const uint64_t layers = static_cast<uint64_t>(last) - first + 1;
  const std::string name = first == last ? LayerName(first) : absl::StrCat(first, "-", last);
  for (const auto& [place, share] : shares) {
    table.Add({name, PlaceName(place), absl::StrCat(share.tensors * layers),
               HumanBytes(share.bytes * layers), absl::StrJoin(share.types, " ")});
  }
}

// Neighbouring layers that are treated alike share a row.
void PrintLayers(const v1::GetPlacementResponse& placement) {
  std::map<int32_t, LayerShares> layers;
  for (const v1::TensorPlacement& tensor : placement.tensors()) {
    Share& share = layers[tensor.layer()][tensor.place()];
    ++share.tensors;
    share.bytes += tensor.bytes();
    share.types.insert(tensor.type_name());
  }
  Table table({">LAYERS", "PLACE", ">TENSORS", ">SIZE", "TYPES"});
  for (auto first = layers.begin(); first != layers.end();) {
    auto last = first;
    auto next = std::next(first);
    while (first->first >= 0 && next != layers.end() && next->first == last->first + 1 &&
           next->second == first->second) {
      last = next++;
    }
    AddRows(first->first, last->first, first->second, table);
    first = next;
  }
  Print(table.ToString());
}

absl::Status RunPlacement(const Arguments& arguments) {
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  v1::GetPlacementResponse placement;
  const grpc::Status status =
      v1::DiagnosticsService::NewStub(*channel)->GetPlacement(&context, {}, &placement);
  if (!status.ok()) return RpcError(status, address);
  if (arguments.Has("json")) {
    Print(ToJson(placement));
    return absl::OkStatus();
  }
  if (arguments.Has("tensors")) {
    PrintTensors(placement);
  } else {
    PrintLayers(placement);
  }
  Print(absl::StrFormat(
      "shared pages %s, resident %s, streamed %s, cached %s\n",
      HumanBytes(placement.shared_bytes()), HumanBytes(placement.resident_bytes()),
      HumanBytes(placement.streamed_bytes()), HumanBytes(placement.cached_bytes())));
  if (placement.link_bytes_per_second() > 0) {
    Print(absl::StrFormat("each step fetches %s at %s/s: %.1f ms\n",
                          HumanBytes(placement.bytes_per_step()),
                          HumanBytes(static_cast<uint64_t>(placement.link_bytes_per_second())),
                          placement.predicted_step_seconds() * 1e3));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> PlacementCommands() {
  const Flag tensors = {"tensors", FlagKind::kSwitch, "", "A line a tensor, not a layer."};
  return {{"placement",
           "",
           0,
           "Shows where a worker keeps its weights.",
           {kWorkerFlag, tensors, kJsonFlag},
           RunPlacement}};
}

}  // namespace gguf_offload::cli
