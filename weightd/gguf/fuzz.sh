#!/bin/bash
# Fuzzes the GGUF parser with AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   weightd/gguf/fuzz.sh [SECONDS [CORPUS_FOLDER]]
#
# From the workspace root. Needs clang-14 and libclang-rt-14-dev. The seeds are the headers of the
# golden models, shortened so that mutations reach the interesting parts.
set -euo pipefail
seconds=${1:-60}
corpus=${2:-}
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/corpus"

clang++-14 -std=c++20 -O1 -g -I. -fsanitize=fuzzer,address,undefined \
  -fno-sanitize-recover=undefined -fno-omit-frame-pointer \
  weightd/gguf/gguf_fuzz.cc weightd/gguf/{gguf_file,parse,parse_metadata,parse_tensors,utf8}.cc \
  kernels/quant/format.cc \
  -labsl_statusor -labsl_status -labsl_cord -labsl_cord_internal -labsl_strings \
  -labsl_strings_internal -labsl_str_format_internal -labsl_throw_delegate \
  -labsl_raw_logging_internal -labsl_raw_hash_set -labsl_hashtablez_sampler -labsl_hash \
  -labsl_city -labsl_low_level_hash -labsl_int128 -labsl_base -labsl_bad_variant_access \
  -o "$work/gguf_fuzz"

python3 - "$work/corpus" <<'PYTHON'
# Whole small files and the starts of larger ones.
import glob, os, struct, sys

def string(text):
    return struct.pack("<Q", len(text)) + text

out = sys.argv[1]
for path in glob.glob("tests/testdata/golden/*/*.gguf"):
    with open(path, "rb") as f:
        head = f.read(16384)
    with open(os.path.join(out, os.path.basename(path)), "wb") as f:
        f.write(head)

# One small complete file: each value type, an array, two tensors, one of unknown type and an empty
# one.
keys = [string(b"general.alignment") + struct.pack("<II", 4, 32)]
for number, code in enumerate("BbHhIif?"):
    keys.append(string(b"k%d" % number) + struct.pack("<I" + code, number, 1))
for number, code in ((10, "Q"), (11, "q"), (12, "d")):
    keys.append(string(b"k%d" % number) + struct.pack("<I" + code, number, 1))
keys.append(string(b"s") + struct.pack("<I", 8) + string(b"text"))
keys.append(string(b"as") + struct.pack("<IIQ", 9, 8, 2) + string(b"a") + string(b"b"))
keys.append(string(b"ai") + struct.pack("<IIQ2i", 9, 5, 2, 1, -1))
tensors = [string(b"t0") + struct.pack("<IQQIQ", 2, 32, 2, 2, 0),
           string(b"t1") + struct.pack("<IQIQ", 1, 4, 0, 64),
           string(b"t2") + struct.pack("<IQIQ", 1, 7, 142, 96),
           string(b"t3") + struct.pack("<IQIQ", 1, 0, 0, 128)]
head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + tensors)
head += b"\0" * (-len(head) % 32)
with open(os.path.join(out, "complete"), "wb") as f:
    f.write(head + b"x" * 128)
PYTHON

# Memory per input stays bounded: the limit is far below what a lying count would ask for.
"$work/gguf_fuzz" -max_total_time="$seconds" -max_len=32768 -rss_limit_mb=1024 \
  -malloc_limit_mb=64 -timeout=10 -print_final_stats=1 "$work/corpus" ${corpus:+"$corpus"}
