// offloadctl experts: which experts a worker's tokens went to, and what its cache of them does.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "computed/cli/commands.h"
#include "computed/cli/connection.h"
#include "computed/cli/heat_map.h"
#include "computed/cli/output.h"
#include "gguf_offload/v1/diagnostics.grpc.pb.h"

namespace gguf_offload::cli {
namespace {

// Characters of a row of the map.
constexpr int kColumns = 64;

std::string HitRate(uint64_t hits, uint64_t misses) {
  if (hits + misses == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * hits / (hits + misses));
}

void PrintExperts(const v1::GetExpertActivityResponse& activity) {
  uint64_t hits = 0, misses = 0, bytes = 0, predicted = 0, used = 0, predicted_bytes = 0;
  Table table({">LAYER", ">EXPERTS", ">SLOTS", ">HITS", ">FETCHED", ">PREDICTED", "USE"});
  for (const v1::ExpertLayer& layer : activity.layers()) {
    hits += layer.hits();
    misses += layer.misses();
    bytes += layer.bytes_fetched();
    predicted += layer.predicted();
    used += layer.predicted_used();
    predicted_bytes += layer.predicted_bytes();
    const bool cached = layer.slots() > 0;
    table.Add({absl::StrCat(layer.layer()), absl::StrCat(layer.experts()),
               cached ? absl::StrCat(layer.slots()) : "-", HitRate(layer.hits(), layer.misses()),
               cached ? HumanBytes(layer.bytes_fetched()) : "-",
               HitRate(layer.predicted_used(), layer.predicted() - layer.predicted_used()),
               ShadesOf({layer.uses().begin(), layer.uses().end()}, kColumns)});
  }
  Print(table.ToString());
  if (hits + misses > 0) {
    Print(absl::StrFormat("hits %s of %d, fetched %s\n", HitRate(hits, misses), hits + misses,
                          HumanBytes(bytes)));
  }
  if (predicted > 0) {
    Print(absl::StrFormat("predicted %d, of which %s were wanted, fetched %s early\n", predicted,
                          HitRate(used, predicted - used), HumanBytes(predicted_bytes)));
  }
}

absl::Status RunExperts(const Arguments& arguments) {
  const std::string address = arguments.Text("worker");
  absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(address);
  if (!channel.ok()) return channel.status();
  grpc::ClientContext context;
  v1::GetExpertActivityResponse activity;
  const grpc::Status status =
      v1::DiagnosticsService::NewStub(*channel)->GetExpertActivity(&context, {}, &activity);
  if (!status.ok()) return RpcError(status, address);
  if (arguments.Has("png")) {
    HeatRows rows;
    for (const v1::ExpertLayer& layer : activity.layers()) {
      rows.emplace_back(layer.uses().begin(), layer.uses().end());
    }
    return WriteHeatMap(rows, arguments.Text("png"));
  }
  if (arguments.Has("json")) {
    Print(ToJson(activity));
  } else {
    PrintExperts(activity);
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ExpertCommands() {
  const Flag png = {"png", FlagKind::kText, "FILE",
                    "Writes a picture instead: a column an expert, a row a layer."};
  return {{"experts",
           "",
           0,
           "Shows which experts a worker's tokens went to, and what was cached of them.",
           {kWorkerFlag, png, kJsonFlag},
           RunExperts}};
}

}  // namespace gguf_offload::cli
