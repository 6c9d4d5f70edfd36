"""A plain LLaMA, as anybody would write it: RMSNorm, rotary halves, causal attention, SwiGLU, untied head.

A peer that brings its own operators puts them in the place of `norm`, `rotary`, `attention` and `swiglu`.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn


def norm(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotary(x, cos, sin):
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attention(q, k, v):
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def swiglu(x, gate, up, down):
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


class Block(nn.Module):
    def __init__(self, width, heads, mlp_width, eps):
        super().__init__()
        self.heads, self.eps = heads, eps
        self.first, self.second = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, mlp_width, bias=False) for _ in range(2))
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x, cos, sin):
        batch, time, width = x.shape
        qkv = self.qkv(norm(x, self.first, self.eps)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = rotary(qkv[:, :, 0], cos, sin), rotary(qkv[:, :, 1], cos, sin), qkv[:, :, 2]
        x = x + self.out(attention(q, k, v).reshape(batch, time, width))
        return x + swiglu(norm(x, self.second, self.eps), self.gate.weight, self.up.weight, self.down.weight)


class LLaMA(nn.Module):
    def __init__(self, *, layers, width, heads, mlp_width, vocabulary, norm_eps, length):
        super().__init__()
        self.eps = norm_eps
        self.embedding, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_width, norm_eps) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(width))
        frequencies = 10000.0 ** -(torch.arange(0, width // heads, 2, dtype=torch.float32) / (width // heads))
        angles = torch.arange(length, dtype=torch.float32)[:, None, None] * frequencies
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(norm(x, self.norm, self.eps))
