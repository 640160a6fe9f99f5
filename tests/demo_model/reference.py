"""The demo models' forward passes in NumPy (float64), from the papers, to check others by."""

import numpy

import export
import shapes


def rms_norm(x, weight):
    return x / numpy.sqrt((x * x).mean(axis=-1, keepdims=True) + shapes.EPSILON) * weight


def silu(x):
    return x / (1 + numpy.exp(-x))


def softmax(x):
    e = numpy.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _angles(positions, dim, base):
    """(positions, dim / 2)"""
    return positions[:, None] * base ** (-numpy.arange(0, dim, 2) / dim)


def rotate_halves(x, base):
    """x: (positions, heads, dim); element i goes with element i + dim / 2."""
    angles = _angles(numpy.arange(x.shape[0]), x.shape[-1], base)[:, None, :]
    a, b = numpy.split(x, 2, axis=-1)
    return numpy.concatenate([a * numpy.cos(angles) - b * numpy.sin(angles),
                              a * numpy.sin(angles) + b * numpy.cos(angles)], axis=-1)


def rotate_pairs(x, base):
    """x: (positions, heads, dim); element 2i goes with element 2i + 1."""
    angles = _angles(numpy.arange(x.shape[0]), x.shape[-1], base)[:, None, :]
    a, b = x[..., 0::2], x[..., 1::2]
    out = numpy.empty_like(x)
    out[..., 0::2] = a * numpy.cos(angles) - b * numpy.sin(angles)
    out[..., 1::2] = a * numpy.sin(angles) + b * numpy.cos(angles)
    return out


def attend(queries, keys, values):
    """(positions, heads, dim) each; causal."""
    length = queries.shape[0]
    scores = numpy.einsum('qhd,khd->hqk', queries, keys) / numpy.sqrt(queries.shape[-1])
    scores[:, numpy.triu(numpy.ones((length, length), dtype=bool), 1)] = -numpy.inf
    return numpy.einsum('hqk,khd->qhd', softmax(scores), values).reshape(length, -1)


def gated(x, gate, up, down):
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


class Reference:
    """weights: {tensor name: array}."""

    def __init__(self, shape, weights):
        self.shape = shape
        self.weights = {name: array.astype(numpy.float64) for name, array in weights.items()}

    def logits(self, ids):
        """(positions, vocabulary)"""
        x = self.weights['token_embd.weight'][ids]
        for index in range(self.shape.layers):
            x = x + self._attention(index, x)
            x = x + self._feed_forward(index, x)
        x = rms_norm(x, self.weights['output_norm.weight'])
        return x @ self.weights['token_embd.weight'].T

    def _layer(self, index):
        return lambda name: self.weights[f'blk.{index}.{name}.weight']

    def _attention(self, index, x):
        w = self._layer(index)
        x = rms_norm(x, w('attn_norm'))
        if isinstance(self.shape, shapes.Dense):
            return self._grouped(w, x) @ w('attn_output').T
        return self._latent(w, x) @ w('attn_output').T

    def _grouped(self, w, x):
        s = self.shape
        length = x.shape[0]
        queries = (x @ w('attn_q').T).reshape(length, s.heads, s.head_dim)
        keys = (x @ w('attn_k').T).reshape(length, s.kv_heads, s.head_dim)
        values = (x @ w('attn_v').T).reshape(length, s.kv_heads, s.head_dim)
        queries = rotate_halves(rms_norm(queries, w('attn_q_norm')), s.rope_base)
        keys = rotate_halves(rms_norm(keys, w('attn_k_norm')), s.rope_base)
        group = s.heads // s.kv_heads
        return attend(queries, keys.repeat(group, axis=1), values.repeat(group, axis=1))

    def _latent(self, w, x):
        s = self.shape
        length = x.shape[0]
        queries = (x @ w('attn_q').T).reshape(length, s.heads, s.plain_dim + s.rope_dim)
        plain, rotated = numpy.split(queries, [s.plain_dim], axis=-1)
        queries = numpy.concatenate([plain, rotate_pairs(rotated, s.rope_base)], axis=-1)
        latent, key = numpy.split(x @ w('attn_kv_a_mqa').T, [s.kv_rank], axis=-1)
        key = rotate_pairs(key[:, None, :], s.rope_base).repeat(s.heads, axis=1)
        expanded = (rms_norm(latent, w('attn_kv_a_norm')) @ w('attn_kv_b').T).reshape(
            length, s.heads, s.plain_dim + s.value_dim)
        plain_keys, values = numpy.split(expanded, [s.plain_dim], axis=-1)
        return attend(queries, numpy.concatenate([plain_keys, key], axis=-1), values)

    def _feed_forward(self, index, x):
        s = self.shape
        w = self._layer(index)
        x = rms_norm(x, w('ffn_norm'))
        if isinstance(s, shapes.Dense) or index < s.dense_layers:
            return gated(x, w('ffn_gate'), w('ffn_up'), w('ffn_down'))
        result = gated(x, w('ffn_gate_shexp'), w('ffn_up_shexp'), w('ffn_down_shexp'))
        shares = softmax(x @ w('ffn_gate_inp').T)
        for position, share in enumerate(shares):
            chosen = numpy.argsort(-share, kind='stable')[:s.used]
            for expert in chosen:
                result[position] += share[expert] / share[chosen].sum() * gated(
                    x[position], w('ffn_gate_exps')[expert], w('ffn_up_exps')[expert],
                    w('ffn_down_exps')[expert])
        return result


def random_weights(name, seed):
    """For the model `name`, of a size at which every part matters, rounded as its file holds them."""
    rng = numpy.random.default_rng(seed)
    weights = {}
    for tensor, dims in shapes.tensors(shapes.SHAPES[name]).items():
        if len(dims) == 1:
            array = 1 + 0.1 * rng.standard_normal(dims)
        else:
            array = rng.standard_normal(dims) * dims[-1] ** -0.5
        weights[tensor] = array.astype('<f4')
    return export.rounded(name, weights)
