"""Writes small models with modelgen and checks them with a reader of its own.

The reader follows the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md) and shares
nothing with the writer. Usage: check_gguf.py MODELGEN FOLDER
"""

import glob
import os
import struct
import subprocess
import sys
import unittest

import numpy as np

# type number: (name, elements a block, bytes a block)
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


class GgufFile:
    """One file, checked while it is read."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        self.at = 0
        assert self.bytes[:4] == b"GGUF", path
        self.at = 4
        assert self.scalar("I") == 3
        tensor_count, metadata_count = self.scalar("Q"), self.scalar("Q")
        self.metadata, self.types = {}, {}
        for _ in range(metadata_count):
            key = self.string()
            assert key not in self.metadata, key
            self.types[key] = self.scalar("I")
            self.metadata[key] = self.value(self.types[key])
        alignment = self.metadata.get("general.alignment", 32)
        self.tensors = {}
        for _ in range(tensor_count):
            name = self.string()
            assert name not in self.tensors, name
            dims = tuple(self.scalar("Q") for _ in range(self.scalar("I")))
            self.tensors[name] = (dims, self.scalar("I"), self.scalar("Q"))
        data = -(-self.at // alignment) * alignment
        assert not any(self.bytes[self.at : data]), "padding after the header is not zero"
        self.place_tensors(data, alignment)

    def place_tensors(self, data, alignment):
        """Checks that the tensors tile the data, and cuts them out."""
        self.data, end = {}, 0
        for name, (dims, number, offset) in self.tensors.items():
            _, elements, size = TYPES[number]
            assert dims[0] % elements == 0, name
            length = int(np.prod(dims)) // elements * size
            assert offset % alignment == 0, name
            assert offset == -(-end // alignment) * alignment, (name, offset, end)
            assert not any(self.bytes[data + end : data + offset]), name
            self.data[name] = self.bytes[data + offset : data + offset + length]
            assert len(self.data[name]) == length, name
            end = offset + length
        assert len(self.bytes) == data + -(-end // alignment) * alignment

    def scalar(self, code):
        size = struct.calcsize("<" + code)
        (value,) = struct.unpack_from("<" + code, self.bytes, self.at)
        self.at += size
        return value

    def string(self):
        length = self.scalar("Q")
        self.at += length
        return self.bytes[self.at - length : self.at].decode("utf-8")

    def value(self, number):
        if number == 8:
            return self.string()
        if number == 9:
            element, count = self.scalar("I"), self.scalar("Q")
            return [self.value(element) for _ in range(count)]
        return self.scalar(SCALARS[number])


def run_modelgen(name, *flags):
    """Runs modelgen and returns the files it wrote, in the order of their names."""
    path = os.path.join(FOLDER, name + ".gguf")
    subprocess.run([MODELGEN, "--out=" + path, *flags], check=True, stdout=subprocess.PIPE)
    return sorted(glob.glob(os.path.join(FOLDER, name + "*.gguf")))


def byte_spelling():
    """GPT-2's spelling of the 256 bytes as characters."""
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    spelling = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in spelling:
            spelling[b] = chr(256 + len(spelling) - len(plain))
    return spelling


def encode(text, metadata):
    """Byte-level BPE of the whole text as one word: merges by rank."""
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(metadata["tokenizer.ggml.merges"])}
    pieces = [byte_spelling()[b] for b in text.encode("utf-8")]
    while True:
        pairs = [(ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(pieces, pieces[1:]))]
        if not pairs or min(pairs)[0] == 1 << 30:
            ids = {t: i for i, t in enumerate(metadata["tokenizer.ggml.tokens"])}
            return [ids[piece] for piece in pieces]
        i = min(pairs)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def decode(ids, metadata):
    characters = {c: b for b, c in byte_spelling().items()}
    spelled = "".join(metadata["tokenizer.ggml.tokens"][i] for i in ids)
    return bytes(characters[c] for c in spelled).decode("utf-8")


class ModelgenTest(unittest.TestCase):
    def read_one(self, name, *flags):
        paths = run_modelgen(name, *flags)
        self.assertEqual(len(paths), 1)
        return GgufFile(paths[0])

    def test_shapes_of_dense_models(self):
        common = {"token_embd.weight": (256, 512), "output_norm.weight": (256,)}
        layer = {
            "attn_norm.weight": (256,), "ffn_norm.weight": (256,), "attn_q.weight": (256, 256),
            "attn_k.weight": (256, 128), "attn_v.weight": (256, 128),
            "attn_output.weight": (256, 256), "ffn_gate.weight": (256, 512),
            "ffn_up.weight": (256, 512), "ffn_down.weight": (512, 256),
        }  # fmt: skip
        extra = {
            "tiny-llama": ({}, {"output.weight": (256, 512)}),
            "tiny-qwen2": (
                {"attn_q.bias": (256,), "attn_k.bias": (128,), "attn_v.bias": (128,)}, {}),
            "tiny-qwen3": (
                {"attn_q_norm.weight": (64,), "attn_k_norm.weight": (64,)},
                {"output.weight": (256, 512)}),
        }  # fmt: skip
        for preset, (layer_extra, model_extra) in extra.items():
            file = self.read_one(preset, "--preset=" + preset, "--quantization=Q4_0")
            expected = {**common, **model_extra}
            for i in range(2):
                for part, dims in {**layer, **layer_extra}.items():
                    expected[f"blk.{i}.{part}"] = dims
            self.assertEqual({n: t[0] for n, t in file.tensors.items()}, expected)
            for name, (dims, number, _) in file.tensors.items():
                self.assertEqual(TYPES[number][0], "F32" if len(dims) == 1 else "Q4_0", name)

    def test_every_type(self):
        for name, elements, _ in TYPES.values():
            file = self.read_one("type", "--preset=tiny-llama", "--quantization=" + name)
            self.assertEqual(TYPES[file.tensors["blk.1.ffn_down.weight"][1]][0], name)

    def test_numbers(self):
        file = self.read_one("numbers", "--preset=tiny-qwen2", "--quantization=F32")
        up = np.frombuffer(file.data["blk.0.ffn_up.weight"], np.float32)
        self.assertAlmostEqual(up.std() * 16, 1, delta=0.05)
        self.assertAlmostEqual(up.mean() * 16, 0, delta=0.02)
        norm = np.frombuffer(file.data["blk.1.attn_norm.weight"], np.float32)
        self.assertAlmostEqual(norm.mean(), 1, delta=0.05)
        bias = np.frombuffer(file.data["blk.1.attn_k.bias"], np.float32)
        self.assertLess(abs(bias).max(), 0.5)
        half = self.read_one("half", "--preset=tiny-qwen2", "--quantization=F16")
        down = np.frombuffer(half.data["blk.0.ffn_down.weight"], np.float16).astype(np.float32)
        self.assertAlmostEqual(down.std() * 512**0.5, 0.5, delta=0.02)
        eight = self.read_one("eight", "--preset=tiny-qwen2", "--quantization=Q8_0")
        blocks = np.frombuffer(eight.data["blk.0.ffn_up.weight"], np.uint8).reshape(-1, 34)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        values = scales * blocks[:, 2:].view(np.int8)
        self.assertAlmostEqual(values.std() * 16, 1, delta=0.05)

    def test_deepseek(self):
        file = self.read_one("deepseek", "--preset=tiny-deepseek2", "--quantization=UD-IQ1_S")
        get = lambda key: file.metadata["deepseek2." + key]
        heads, rank = get("attention.head_count"), get("attention.kv_lora_rank")
        rope, key = get("rope.dimension_count"), get("attention.key_length_mla")
        value, dim = get("attention.value_length_mla"), get("embedding_length")
        self.assertEqual(get("attention.key_length"), rank + rope)
        self.assertEqual(get("attention.value_length"), rank)
        self.assertEqual(get("attention.head_count_kv"), 1)
        dims = {name: tensor[0] for name, tensor in file.tensors.items()}
        self.assertEqual(dims["blk.0.attn_kv_a_mqa.weight"], (dim, rank + rope))
        self.assertEqual(dims["blk.0.attn_k_b.weight"], (key - rope, rank, heads))
        self.assertEqual(dims["blk.0.attn_v_b.weight"], (rank, value, heads))
        self.assertEqual(dims["blk.0.attn_output.weight"], (heads * value, dim))
        self.assertEqual(dims["blk.1.ffn_down_exps.weight"], (256, dim, get("expert_count")))
        self.assertIn("blk.0.ffn_gate.weight", dims)
        self.assertNotIn("blk.0.ffn_gate_inp.weight", dims)
        self.assertEqual(get("leading_dense_block_count"), 1)
        self.assertEqual(get("rope.scaling.type"), "yarn")
        self.assertAlmostEqual(get("rope.scaling.yarn_log_multiplier"), 0.1, places=6)
        self.assertAlmostEqual(get("expert_weights_scale"), 2.5)
        self.assertIs(get("expert_weights_norm"), True)

    def test_true_metadata(self):
        file = self.read_one(
            "r1", "--preset=deepseek-r1", "--layers=1", "--dim=256", "--heads=1",
            "--feed-forward=256", "--quantization=UD-IQ1_S")  # fmt: skip
        expected = {
            "expert_count": 256, "expert_used_count": 8, "expert_shared_count": 1,
            "expert_group_count": 8, "expert_group_used_count": 4, "expert_gating_func": 2,
            "expert_feed_forward_length": 2048, "attention.q_lora_rank": 1536,
            "attention.kv_lora_rank": 512, "attention.key_length_mla": 192,
            "attention.value_length_mla": 128, "attention.key_length": 576,
            "attention.value_length": 512, "rope.dimension_count": 64, "vocab_size": 129280,
            "rope.scaling.factor": 40.0, "rope.scaling.original_context_length": 4096,
            "context_length": 163840,
        }  # fmt: skip
        for key, value in expected.items():
            self.assertEqual(file.metadata["deepseek2." + key], value, key)
        self.assertEqual(file.metadata["general.architecture"], "deepseek2")
        self.assertEqual(file.metadata["general.file_type"], 24)
        self.assertEqual(file.metadata["general.quantization_version"], 2)
        self.assertEqual(len(file.metadata["tokenizer.ggml.tokens"]), 129280)
        self.assertEqual(file.tensors["token_embd.weight"][0], (256, 129280))

    def test_tokenizer(self):
        texts = ["the water of life", " number 123 of the people\n\n",
                 "Grüße, 世界 \U0001f642", "xq~"]  # fmt: skip
        for preset, pre in {"tiny-llama": "llama-bpe", "tiny-qwen2": "qwen2",
                            "tiny-deepseek2": "deepseek-v3"}.items():  # fmt: skip
            for vocabulary in [512, 5000]:
                file = self.read_one("tok", "--preset=" + preset, f"--vocab={vocabulary}")
                get = lambda key: file.metadata["tokenizer.ggml." + key]
                self.assertEqual((get("model"), get("pre")), ("gpt2", pre))
                tokens, types = get("tokens"), get("token_type")
                self.assertEqual(len(tokens), vocabulary)
                self.assertEqual(len(set(tokens)), vocabulary)
                self.assertEqual(file.types["tokenizer.ggml.bos_token_id"], 4)
                self.assertEqual(types[get("bos_token_id")], 3)
                self.assertEqual(types[get("eos_token_id")], 3)
                self.assertEqual(get("add_bos_token"), pre != "qwen2")
                self.assertEqual(file.tensors["token_embd.weight"][0][1], vocabulary)
                self.assertLessEqual(set(byte_spelling().values()), set(tokens))
                for text in texts:
                    ids = encode(text, file.metadata)
                    self.assertEqual(decode(ids, file.metadata), text)
                if vocabulary == 5000:  # every word of the first text is one token
                    self.assertEqual(len(encode(" water", file.metadata)), 1)

    def test_shards(self):
        flags = ["--preset=tiny-qwen3", "--quantization=Q4_K_M"]
        whole = self.read_one("whole", *flags)
        for name, extra in {"split": [], "apart": ["--metadata-shard"]}.items():
            paths = run_modelgen(name, *flags, "--shard-bytes=200000", *extra)
            count = len(paths)
            self.assertGreater(count, 3)
            files = [GgufFile(path) for path in paths]
            tensors = {}
            for i, (path, file) in enumerate(zip(paths, files)):
                self.assertTrue(path.endswith(f"{name}-{i + 1:05}-of-{count:05}.gguf"), path)
                self.assertEqual(file.metadata["split.no"], i)
                self.assertEqual(file.metadata["split.count"], count)
                self.assertEqual(file.metadata["split.tensors.count"], len(whole.tensors))
                self.assertEqual(file.types["split.no"], 2)
                self.assertEqual(file.types["split.tensors.count"], 5)
                self.assertLessEqual(sum(map(len, file.data.values())), 200000)
                if i > 0:
                    self.assertEqual(len(file.metadata), 3)
                tensors.update(file.data)
            self.assertEqual(tensors, whole.data)
            self.assertEqual(len(files[0].tensors) == 0, name == "apart")
            for key, value in whole.metadata.items():
                self.assertEqual(files[0].metadata[key], value)

    def test_threads_and_seeds(self):
        flags = ["--preset=tiny-qwen3moe", "--quantization=Q4_K_M"]
        one, three, other = (
            self.read_one(name, *flags, *extra).bytes
            for name, extra in [("t1", ["--threads=1"]), ("t3", ["--threads=3"]),
                                ("s2", ["--seed=2"])]
        )  # fmt: skip
        self.assertEqual(one, three)
        self.assertNotEqual(one, other)

    def test_dry_run_writes_nothing_and_errors_are_told(self):
        self.assertEqual(run_modelgen("dry", "--preset=deepseek-r1", "--dry-run"), [])
        for flags in [["--preset=none"], ["--preset=tiny-llama", "--quantization=Q9"],
                      ["--preset=tiny-llama", "--vocab=5"]]:  # fmt: skip
            result = subprocess.run([MODELGEN, "--out=" + FOLDER + "/bad.gguf", *flags],
                                    stderr=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
            self.assertEqual(result.returncode, 1)
            self.assertIn(b"modelgen: ", result.stderr)
            self.assertFalse(os.path.exists(FOLDER + "/bad.gguf"))


if __name__ == "__main__":
    MODELGEN, FOLDER = os.path.abspath(sys.argv[1]), sys.argv[2]
    unittest.main(argv=sys.argv[:1])
