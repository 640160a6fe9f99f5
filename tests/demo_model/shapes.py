"""The two demo models: their sizes, metadata and tensors.

Every row of a matrix is a multiple of 256 long, so that every quantized type applies, and a file,
with its matrices stored as STORED says, is below 4 MB.
"""

import collections
import math

import formats

VOCABULARY = 768
CONTEXT = 256
EPSILON = 1e-6

Dense = collections.namedtuple('Dense', [
    'layers', 'dim', 'heads', 'kv_heads', 'head_dim', 'feed_forward', 'rope_base'])
Experts = collections.namedtuple('Experts', [
    'layers', 'dim', 'heads', 'kv_rank', 'plain_dim', 'rope_dim', 'value_dim', 'feed_forward',
    'dense_layers', 'experts', 'used', 'expert_feed_forward', 'rope_base'])

# Qwen3 (arXiv:2505.09388): queries and keys normalized head by head, the embedding is the head.
DENSE = Dense(layers=4, dim=256, heads=4, kv_heads=2, head_dim=64, feed_forward=256,
              rope_base=10000.0)
# DeepSeek-V2 (arXiv:2405.04434): latent attention, dense layers, then some of routed experts beside
# a shared one. Routing is by softmax; the weights of the chosen experts are made to add up to one.
EXPERTS = Experts(layers=4, dim=256, heads=4, kv_rank=256, plain_dim=32, rope_dim=16, value_dim=64,
                  feed_forward=256, dense_layers=2, experts=4, used=2, expert_feed_forward=256,
                  rope_base=10000.0)
SHAPES = {'demo-dense': DENSE, 'demo-moe': EXPERTS}
# The types of their files' matrices.
STORED = {'demo-dense': 'F16', 'demo-moe': 'Q8_0'}


def architecture(shape):
    return 'qwen3' if isinstance(shape, Dense) else 'deepseek2'


def metadata(shape):
    """The hyperparameters, without the architecture's prefix. Integers are unsigned."""
    common = {
        'block_count': shape.layers, 'context_length': CONTEXT, 'embedding_length': shape.dim,
        'feed_forward_length': shape.feed_forward, 'attention.head_count': shape.heads,
        'attention.layer_norm_rms_epsilon': EPSILON, 'rope.freq_base': shape.rope_base,
    }
    if isinstance(shape, Dense):
        return {**common, 'attention.head_count_kv': shape.kv_heads,
                'attention.key_length': shape.head_dim, 'attention.value_length': shape.head_dim}
    return {**common, 'attention.head_count_kv': shape.heads, 'vocab_size': VOCABULARY,
            'leading_dense_block_count': shape.dense_layers,
            'attention.kv_lora_rank': shape.kv_rank,
            'attention.key_length': shape.plain_dim + shape.rope_dim,
            'attention.value_length': shape.value_dim,
            'rope.dimension_count': shape.rope_dim,
            'expert_feed_forward_length': shape.expert_feed_forward,
            'expert_count': shape.experts, 'expert_used_count': shape.used,
            'expert_shared_count': 1, 'expert_weights_scale': 1.0, 'expert_weights_norm': True,
            'expert_gating_func': 1}


def tensors(shape):
    """{name: shape}, slowest dimension first, as NumPy has it: matrices are (rows, columns)."""
    layer = _dense_layer if isinstance(shape, Dense) else _experts_layer
    result = {'token_embd.weight': (VOCABULARY, shape.dim)}
    for index in range(shape.layers):
        for name, dims in layer(shape, index).items():
            result[f'blk.{index}.{name}.weight'] = dims
    result['output_norm.weight'] = (shape.dim,)
    return result


def _feed_forward(dim, width, suffix=''):
    return {f'ffn_gate{suffix}': (width, dim), f'ffn_up{suffix}': (width, dim),
            f'ffn_down{suffix}': (dim, width)}


def _dense_layer(shape, _):
    keys = shape.kv_heads * shape.head_dim
    queries = shape.heads * shape.head_dim
    return {'attn_norm': (shape.dim,), 'attn_q': (queries, shape.dim),
            'attn_k': (keys, shape.dim), 'attn_v': (keys, shape.dim),
            'attn_q_norm': (shape.head_dim,), 'attn_k_norm': (shape.head_dim,),
            'attn_output': (shape.dim, queries), 'ffn_norm': (shape.dim,),
            **_feed_forward(shape.dim, shape.feed_forward)}


def _experts_layer(shape, index):
    result = {
        'attn_norm': (shape.dim,),
        'attn_q': (shape.heads * (shape.plain_dim + shape.rope_dim), shape.dim),
        'attn_kv_a_mqa': (shape.kv_rank + shape.rope_dim, shape.dim),
        'attn_kv_a_norm': (shape.kv_rank,),
        'attn_kv_b': (shape.heads * (shape.plain_dim + shape.value_dim), shape.kv_rank),
        'attn_output': (shape.dim, shape.heads * shape.value_dim),
        'ffn_norm': (shape.dim,),
    }
    if index < shape.dense_layers:
        return {**result, **_feed_forward(shape.dim, shape.feed_forward)}
    bank = _feed_forward(shape.dim, shape.expert_feed_forward, '_exps')
    return {**result, 'ffn_gate_inp': (shape.experts, shape.dim),
            **{name: (shape.experts, *dims) for name, dims in bank.items()},
            **_feed_forward(shape.dim, shape.expert_feed_forward, '_shexp')}


def stored_as(name, tensor):
    """The type of a tensor in the file of the model `name`; vectors and routers stay F32."""
    dims = tensors(SHAPES[name])[tensor]
    matrix = len(dims) > 1 and not tensor.endswith('ffn_gate_inp.weight')
    return STORED[name] if matrix else 'F32'


def tensor_bytes(name):
    """Of all tensors of the file of the model `name`."""
    return sum(formats.byte_count(stored_as(name, tensor), math.prod(dims))
               for tensor, dims in tensors(SHAPES[name]).items())
