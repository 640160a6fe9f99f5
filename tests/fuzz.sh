#!/bin/bash
# Fuzzes with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer. From anywhere:
#
#   tests/fuzz.sh --list                             the targets' names
#   tests/fuzz.sh NAME [SECONDS [CORPUS_FOLDER]]     one target
#   tests/fuzz.sh all [SECONDS]                      all of them, which share the seconds
#
# Needs clang-14 and libclang-rt-14-dev. Fails if a target finds something.
set -euo pipefail
cd "$(dirname "$0")/.."

# One line a target: its name, its sources (the first has LLVMFuzzerTestOneInput), libraries as -lNAME,
# and other words as options of libFuzzer. Beside the first source X.cc, X_seeds.py FOLDER writes the
# first inputs and X.dict lists tokens; neither has to be there.
targets=(
  "gguf weightd/gguf/gguf_fuzz.cc weightd/gguf/{gguf_file,parse,parse_metadata,parse_tensors,utf8}.cc kernels/quant/format.cc -max_len=32768"
  "pre_tokenizer computed/tokenizer/pre_tokenizer_fuzz.cc computed/tokenizer/{pre_tokenizer{,_cased,_deepseek,_numbers,_runs,_words},unicode,testing/published_expressions,testing/regex_split}.cc -lpcre2-8 -max_len=192"
)

# Debian's Abseil in the order that a static linker would want.
abseil=(-labsl_statusor -labsl_status -labsl_cord -labsl_cord_internal -labsl_strings
  -labsl_strings_internal -labsl_str_format_internal -labsl_throw_delegate
  -labsl_raw_logging_internal -labsl_raw_hash_set -labsl_hashtablez_sampler -labsl_hash
  -labsl_city -labsl_low_level_hash -labsl_int128 -labsl_base -labsl_bad_variant_access)

work=''
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

fuzz() { # SECONDS CORPUS_FOLDER NAME WORD...
  local seconds=$1 corpus=$2 name=$3 word sources=() libraries=() options=()
  shift 3
  for word in "$@"; do
    case $word in
      -l*) libraries+=("$word") ;;
      -*) options+=("$word") ;;
      *) sources+=("$word") ;;
    esac
  done
  local first=${sources[0]%.cc}
  work=$(mktemp -d)
  mkdir "$work/corpus"
  clang++-14 -std=c++20 -O1 -g -I. -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer "${sources[@]}" \
    "${libraries[@]}" "${abseil[@]}" -o "$work/$name"
  [ ! -x "${first}_seeds.py" ] || /usr/bin/python3 "${first}_seeds.py" "$work/corpus"
  [ ! -f "$first.dict" ] || options+=("-dict=$first.dict")
  # Memory per input stays bounded: the limit is far below what a lying count would ask for.
  "$work/$name" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=64 -timeout=10 \
    -print_final_stats=1 "${options[@]}" "$work/corpus" ${corpus:+"$corpus"}
  rm -rf "$work"
  work=''
}

wanted=${1:-all} seconds=${2:-60} found=''
[ "$wanted" != all ] || seconds=$((seconds / ${#targets[@]}))
for target in "${targets[@]}"; do
  name=${target%% *}
  if [ "$wanted" = --list ]; then
    echo "$name"
  elif [ "$wanted" = all ] || [ "$wanted" = "$name" ]; then
    found=yes
    # Braces stand for several sources.
    eval "words=($target)"
    fuzz "$seconds" "${3:-}" "${words[@]}"
  fi
done
if [ -z "$found" ] && [ "$wanted" != --list ]; then
  echo "there is no target $wanted; see $0 --list" >&2
  exit 2
fi
