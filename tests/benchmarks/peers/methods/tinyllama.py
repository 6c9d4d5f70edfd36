"""The operators of TinyLlama that the note ran: flash-attn's attention and rotary in place, xformers' SwiGLU."""


def prepare(model):
    import llama
    import rotary_emb
    from flash_attn import flash_attn_func
    from xformers.ops import swiglu

    def rotary(x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        rotary_emb.apply_rotary(first, second, cos, sin, first, second, False)
        return x

    model.cos, model.sin = model.cos.to(model.norm.dtype), model.sin.to(model.norm.dtype)
    llama.rotary, llama.attention = rotary, lambda q, k, v: flash_attn_func(q, k, v, causal=True)
    llama.swiglu = lambda x, gate, up, down: swiglu(x, gate, None, up, None, down, None)
    return model
