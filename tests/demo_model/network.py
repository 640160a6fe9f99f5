"""The demo models in PyTorch, for training. Parameters have the names that the file gives them."""

import torch
from torch import nn
from torch.nn import functional

import shapes


def _key(name):
    return name.replace('.', '/')  # PyTorch allows no dots


class RmsNorm(nn.Module):
    """Called with the weight, in float32 whatever autocast says."""

    def forward(self, x, weight):
        x32 = x.float()
        scale = torch.rsqrt((x32 * x32).mean(-1, keepdim=True) + shapes.EPSILON)
        return (x32 * scale * weight).to(x.dtype)


def _cosines(dim, base, device):
    """(positions, dim / 2) each."""
    positions = torch.arange(shapes.CONTEXT, device=device, dtype=torch.float64)
    frequencies = base ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float64) / dim)
    angles = positions[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate_halves(x, cos, sin):
    """x: (batch, heads, positions, dim)"""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def rotate_pairs(x, cos, sin):
    a, b = x[..., 0::2], x[..., 1::2]
    rotated = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def attend(queries, keys, values):
    """(batch, heads, positions, dim) each; causal. (batch, positions, heads * dim)"""
    if queries.is_cuda:
        out = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    else:  # older PyTorch on the CPU has no such function
        scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        length = queries.shape[-2]
        after = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        out = scores.masked_fill(after, float('-inf')).softmax(-1) @ values
    return out.transpose(1, 2).flatten(2)


def gated(x, gate, up, down):
    return functional.linear(functional.silu(functional.linear(x, gate)) *
                             functional.linear(x, up), down)


class Network(nn.Module):
    """A demo model. forward() gives logits and what routing costs."""

    def __init__(self, shape, seed):
        super().__init__()
        self.shape = shape
        self.norm = RmsNorm()
        self.weights = nn.ParameterDict()
        generator = torch.Generator().manual_seed(seed)
        for name, dims in shapes.tensors(shape).items():
            self.weights[_key(name)] = nn.Parameter(self._initial(name, dims, generator))
        dim = shape.head_dim if isinstance(shape, shapes.Dense) else shape.rope_dim
        cos, sin = _cosines(dim, shape.rope_base, 'cpu')
        self.register_buffer('cos', cos, persistent=False)
        self.register_buffer('sin', sin, persistent=False)

    def _initial(self, name, dims, generator):
        if len(dims) == 1:
            return torch.ones(dims)
        deviation = 0.02 if name == 'token_embd.weight' else 0.8 * dims[-1] ** -0.5
        if 'attn_output' in name or 'ffn_down' in name:  # what adds to the residual stream
            deviation /= (2 * self.shape.layers) ** 0.5
        return torch.randn(dims, generator=generator) * deviation

    def arrays(self):
        """{tensor name: float32 array}"""
        return {name: self.weights[_key(name)].detach().float().cpu().numpy()
                for name in shapes.tensors(self.shape)}

    def load_arrays(self, arrays):
        with torch.no_grad():
            for name, array in arrays.items():
                weight = self.weights[_key(name)]
                weight.copy_(torch.from_numpy(array.copy()).to(weight.device))

    def forward(self, ids):
        """ids: (batch, positions). Logits (batch, positions, vocabulary) in float32, and the cost
        of uneven routing: 1 per layer of experts if all are used alike."""
        embedding = self.weights[_key('token_embd.weight')]
        x = functional.embedding(ids, embedding)
        cost = x.new_zeros(())
        for index in range(self.shape.layers):
            weight = self._layer(index)
            x = x + self._attention(weight, self.norm(x, weight('attn_norm')))
            added, more = self._feed_forward(index, weight, self.norm(x, weight('ffn_norm')))
            x = x + added
            cost = cost + more
        x = self.norm(x, self.weights[_key('output_norm.weight')])
        return functional.linear(x, embedding).float(), cost

    def _layer(self, index):
        return lambda name: self.weights[_key(f'blk.{index}.{name}.weight')]

    def _attention(self, weight, x):
        mixed = self._grouped if isinstance(self.shape, shapes.Dense) else self._latent
        return functional.linear(mixed(weight, x), weight('attn_output'))

    def _heads(self, x, heads):
        """(batch, heads, positions, dim)"""
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    def _grouped(self, weight, x):
        s = self.shape
        cos, sin = self.cos[:x.shape[1]], self.sin[:x.shape[1]]
        queries = self._heads(functional.linear(x, weight('attn_q')), s.heads)
        keys = self._heads(functional.linear(x, weight('attn_k')), s.kv_heads)
        values = self._heads(functional.linear(x, weight('attn_v')), s.kv_heads)
        queries = rotate_halves(self.norm(queries, weight('attn_q_norm')), cos, sin)
        keys = rotate_halves(self.norm(keys, weight('attn_k_norm')), cos, sin)
        group = s.heads // s.kv_heads
        return attend(queries, keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1))

    def _latent(self, weight, x):
        s = self.shape
        cos, sin = self.cos[:x.shape[1]], self.sin[:x.shape[1]]
        queries = self._heads(functional.linear(x, weight('attn_q')), s.heads)
        plain, rotated = queries.split([s.plain_dim, s.rope_dim], dim=-1)
        queries = torch.cat([plain, rotate_pairs(rotated, cos, sin)], dim=-1)
        latent, key = functional.linear(x, weight('attn_kv_a_mqa')).split([s.kv_rank, s.rope_dim],
                                                                          dim=-1)
        key = rotate_pairs(key[:, None], cos, sin).expand(-1, s.heads, -1, -1)
        expanded = functional.linear(self.norm(latent, weight('attn_kv_a_norm')),
                                     weight('attn_kv_b'))
        plain_keys, values = self._heads(expanded, s.heads).split([s.plain_dim, s.value_dim], -1)
        keys = torch.cat([plain_keys, key], dim=-1)
        return self._attend_unequal(queries, keys, values)

    def _attend_unequal(self, queries, keys, values):
        """As attend(), whose kernels want values as wide as keys: the narrower get zeros."""
        s = self.shape
        width = s.plain_dim + s.rope_dim
        # attend() divides by the root of the wider one.
        scale = (max(width, s.value_dim) / width) ** 0.5
        pad = lambda x: functional.pad(x, (0, max(width, s.value_dim) - x.shape[-1]))
        out = attend(pad(queries * scale), pad(keys), pad(values))
        return out.unflatten(-1, (s.heads, -1))[..., :s.value_dim].flatten(2)

    def _feed_forward(self, index, weight, x):
        s = self.shape
        if isinstance(s, shapes.Dense) or index < s.dense_layers:
            return gated(x, weight('ffn_gate'), weight('ffn_up'), weight('ffn_down')), 0
        shared = gated(x, weight('ffn_gate_shexp'), weight('ffn_up_shexp'),
                       weight('ffn_down_shexp'))
        with torch.autocast(x.device.type, enabled=False):
            shares = functional.linear(x.float(), weight('ffn_gate_inp')).softmax(-1)
            chosen = torch.zeros_like(shares).scatter(-1, shares.topk(s.used, -1).indices, 1.0)
            weights = shares * chosen
            weights = weights / weights.sum(-1, keepdim=True)
            # Switch Transformer (arXiv:2101.03961), equation 4.
            used = chosen.mean((0, 1)) / s.used
            cost = s.experts * (used * shares.mean((0, 1))).sum()
        # All experts see all tokens: there are few, and it is one product.
        hidden = functional.silu(torch.einsum('btd,efd->btef', x, weight('ffn_gate_exps')))
        hidden = hidden * torch.einsum('btd,efd->btef', x, weight('ffn_up_exps'))
        hidden = hidden * weights[..., None].to(hidden.dtype)
        return shared + torch.einsum('btef,edf->btd', hidden, weight('ffn_down_exps')), cost
