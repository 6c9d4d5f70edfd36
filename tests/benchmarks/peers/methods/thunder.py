"""Thunder as it is, with the executors that it takes by itself."""


def prepare(model):
    import thunder

    return thunder.jit(model)
