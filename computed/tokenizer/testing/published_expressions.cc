#include "computed/tokenizer/testing/published_expressions.h"

namespace gguf_offload {
namespace {

const char kGpt2[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char kContractions[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const char kRest[] = R"( ?[^\s\p{L}\p{N}]+[\r\n]*)";
const char kSpaces[] = R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

// The cased letters of DeepSeek LLM.
const char kDeepSeekLlmLetters[] =
    R"(\s?[)"
    R"(\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA})"
    R"(\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}-\x{377})"
    R"(\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5})"
    R"(\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5})"
    R"(\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B})"
    R"(\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D})"
    R"(\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC})"
    R"(\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115})"
    R"(\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139})"
    R"(\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}-\x{2184}\x{2C00}-\x{2C7B})"
    R"(\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}-\x{2CF3}\x{A640}-\x{A66D})"
    R"(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A})"
    R"(\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB})"
    R"(\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})"
    R"(]+)";

std::string Words(const std::string& letters, const std::string& number, const std::string& rest,
                  const std::string& spaces = kSpaces) {
  return std::string(kContractions) + R"(|[^\r\n\p{L}\p{N}]?)" + letters + "|" + number + "|" +
         rest + "|" + spaces;
}

// o200k and its descendants. `guard` goes before each letter of a word.
std::string CasedWords(const std::string& number, const std::string& contraction,
                       const std::string& rest, const std::string& guard = "") {
  const std::string upper = "(?:" + guard + R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]))";
  const std::string lower = "(?:" + guard + R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]))";
  const std::string prefix = R"([^\r\n\p{L}\p{N}]?)";
  return prefix + upper + "*" + lower + "+" + contraction + "|" + prefix + upper + "+" + lower +
         "*" + contraction + "|" + number + "|" + rest + "|" + kSpaces;
}

std::string DeepSeekWords(const std::string& rest_and_breaks) {
  return R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)"
         R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)" +
         rest_and_breaks + R"(|\s+(?!\S)|\s+)";
}

std::vector<PublishedExpressions> Build() {
  const std::string letters = R"(\p{L}+)";
  const std::string each_number = R"(\p{N})";
  const std::string triples = R"(\p{N}{1,3})";
  const std::string optional_contraction = std::string(kContractions) + "?";
  const std::string rest_and_slashes = R"( ?[^\s\p{L}\p{N}]+[\r\n/]*)";
  const std::string o200k = CasedWords(triples, optional_contraction, rest_and_slashes);
  const std::string llama3 = Words(letters, triples, kRest);
  const std::string qwen2 = Words(letters, each_number, kRest);
  const std::string deepseek_v3 = DeepSeekWords(R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+)");
  const std::string deepseek_cjk = R"([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
  const std::string cjk = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
  const std::string bloom =
      R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+)";
  const std::string lines = R"([^\n]+|[\n]+)";
  return {
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "gigachat", "mellum",
        "a.x-4.0", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en", "jina-v2-code",
        "roberta-bpe", "modern-bert", "granite-docling"},
       {kGpt2}},
      {{"default"}, {R"([\p{P}$+<=>^~|]+)", kGpt2, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
      {{"falcon"}, {R"([\p{P}$+<=>^~|`]+)", kGpt2, "[0-9][0-9][0-9]"}},
      {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
        "mellum2"},
       {each_number, kGpt2}},
      {{"chameleon"},
       {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )",
        each_number, R"([\p{P}!-/:-@\[-`{-~])", kGpt2}},
      {{"poro-chat", "bloom", "gpt3-finnish"}, {bloom}},
      {{"viking"}, {bloom, each_number}},
      {{"superbpe"}, {R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"},
       {llama3}},
      {{"jais-2"},
       {Words(letters, triples, kRest,
              R"(\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|)"
              R"(\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})")}},
      {{"minicpm5"}, {triples, Words(letters, R"(\p{N}+)", kRest)}},
      {{"qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
        "kormo", "f2llmv2"},
       {qwen2}},
      {{"bailingmoe", "bailingmoe2", "llada-moe"},
       {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|)"
        R"(\s*[\r\n]|\s+(?!\S)|\s+)"}},
      {{"qwen35"}, {Words(R"([\p{L}\p{M}]+)", each_number, R"( ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)")}},
      {{"laguna"}, {lines, qwen2}},
      {{"seed-coder"}, {Words(letters, R"(\p{N}{1})", R"( ?[^\s\p{L}\p{N}\r\n]+)")}},
      {{"ufakzeka"}, {R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)" + std::string(kRest) + "|" + kSpaces}},
      {{"exaone-moe"},
       {Words(R"((?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+)", each_number, R"( ?[^\s\p{L}\p{N}]+[\r\n/]?)",
              R"(\s*[\r\n]|\s+(?!\S)|\s+)")}},
      {{"gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie", "granite-embed-multi-97m"}, {o200k}},
      {{"tiny_aya", "cohere2moe"},
       // \b as Oniguruma has it.
       {R"(\d{1,3}(?=(?:\d{3})*(?<=\d)(?![\p{L}\p{M}\p{Nd}\p{Pc}])))", o200k}},
      {{"tekken"}, {CasedWords(each_number, "", rest_and_slashes)}},
      {{"youtu"},
       {R"([\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|[\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019})"
        R"(\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F}\x{FE30}-\x{FE4F}]+|)"
        R"([\x{3105}-\x{312F}]+|)" +
            cjk,
        CasedWords(each_number, optional_contraction, rest_and_slashes)}},
      {{"kimi-k2"},
       {R"([\p{sc:Han}]+|)" +
        CasedWords(triples, optional_contraction, kRest, R"((?!\p{sc:Han}))")}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, {triples, cjk, deepseek_v3}},
      {{"spark2_5"}, {triples, cjk, DeepSeekWords(R"( ?[\p{P}\p{S}]+|[\r\n])"), each_number}},
      {{"afmoe"},
       {R"(\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N})))",
        R"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF})"
        R"(\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{0E40}-\x{0E7F}\x{0E80}-\x{0EFF}\x{1780}-\x{17FF})"
        R"(\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+)",
        deepseek_v3}},
      {{"deepseek-coder"},
       {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", deepseek_cjk, each_number}},
      {{"deepseek-llm"},
       {R"([\r\n])", kDeepSeekLlmLetters,
        R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)",
        R"(\s+$)", deepseek_cjk, R"(\p{N}+)"}},
      {{"gemma4", "granite-embed-multi-311m", "sarvam-moe"}, {lines}},
      {{"whitespace"}, {R"(\S+)"}},
  };
}

}  // namespace

const std::vector<PublishedExpressions>& AllPublishedExpressions() {
  static const std::vector<PublishedExpressions>& expressions =
      *new std::vector<PublishedExpressions>(Build());
  return expressions;
}

const std::vector<std::string>& DistinguishingTexts() {
  static const std::vector<std::string>& texts = *new std::vector<std::string>{"a",
                                                                               "s",
                                                                               "t",
                                                                               "d",
                                                                               "m",
                                                                               "re",
                                                                               "ve",
                                                                               "ll",
                                                                               "LL",
                                                                               "S",
                                                                               "Re",
                                                                               "A",
                                                                               "Z",
                                                                               "z",
                                                                               "0",
                                                                               "7",
                                                                               "123",
                                                                               " ",
                                                                               " ",
                                                                               " ",
                                                                               "  ",
                                                                               "\n",
                                                                               "\r",
                                                                               "\r\n",
                                                                               "\t",
                                                                               "\v",
                                                                               "\x1C",
                                                                               "\x7F",
                                                                               "'",
                                                                               "'",
                                                                               "'",
                                                                               "\"",
                                                                               "!",
                                                                               "#",
                                                                               "$",
                                                                               "+",
                                                                               "-",
                                                                               "/",
                                                                               "/",
                                                                               "<",
                                                                               ">",
                                                                               "=",
                                                                               "^",
                                                                               "_",
                                                                               "`",
                                                                               "{",
                                                                               "|",
                                                                               "}",
                                                                               "~",
                                                                               "~",
                                                                               "[",
                                                                               "]",
                                                                               "\\",
                                                                               ".",
                                                                               ",",
                                                                               "é",
                                                                               "ß",
                                                                               "µ",
                                                                               "ª",
                                                                               "ǅ",
                                                                               "ƻ",
                                                                               "Ж",
                                                                               "д",
                                                                               "Ω",
                                                                               "א",
                                                                               "न",
                                                                               "ि",
                                                                               "́",
                                                                               "̈",
                                                                               "中",
                                                                               "文",
                                                                               "龥",
                                                                               "龦",
                                                                               "か",
                                                                               "カ",
                                                                               "ー",
                                                                               "・",
                                                                               "한",
                                                                               "①",
                                                                               "½",
                                                                               "²",
                                                                               "Ⅷ",
                                                                               "٣",
                                                                               "€",
                                                                               "…",
                                                                               "’",
                                                                               "—",
                                                                               "、",
                                                                               "。",
                                                                               "！",
                                                                               "～",
                                                                               "Ａ",
                                                                               "　",
                                                                               " ",
                                                                               "\u0085",
                                                                               "\u2028",
                                                                               "\u200B",
                                                                               "\u200D",
                                                                               "\u2003",
                                                                               "🙂",
                                                                               "🚀",
                                                                               "𐐀",
                                                                               "\u0378",
                                                                               "\uE000",
                                                                               "\U000E0001",
                                                                               "\uFFFD",
                                                                               "\u017F",
                                                                               "\u017F",
                                                                               "s",
                                                                               "'",
                                                                               "IMGIMG",
                                                                               "A",
                                                                               "I",
                                                                               "Z",
                                                                               "<sentinel:",
                                                                               "12",
                                                                               ">",
                                                                               "1234",
                                                                               "    ",
                                                                               "          ",
                                                                               "                 ",
                                                                               "\u2026",
                                                                               "\u0964",
                                                                               "\u06D4",
                                                                               "\u060C",
                                                                               "\uAC00",
                                                                               "\u3131",
                                                                               "\u3105",
                                                                               "\u3001",
                                                                               "\u3005",
                                                                               "\u3007",
                                                                               "\u2F00",
                                                                               "\uF900",
                                                                               "\uFA6E",
                                                                               "\u0E40",
                                                                               "\u0E19",
                                                                               "\u0E35",
                                                                               "\u1780",
                                                                               "\u1000",
                                                                               "\u02B0",
                                                                               "\u01C5",
                                                                               "\u203F",
                                                                               "_",
                                                                               "\u0661\u0662\u0663",
                                                                               "\u2163",
                                                                               "\u180E",
                                                                               "\u2003",
                                                                               "\u3000",
                                                                               "\u00A0",
                                                                               "\U00020000",
                                                                               "\U00016FE2",
                                                                               "/",
                                                                               "\n",
                                                                               " ",
                                                                               " "};
  return texts;
}

}  // namespace gguf_offload
