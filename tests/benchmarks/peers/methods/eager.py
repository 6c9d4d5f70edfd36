"""PyTorch as it is."""


def prepare(model):
    return model
