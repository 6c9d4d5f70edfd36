"""Training at shapes that change: each sequence has its own length, and a batch is padded to its longest."""

from __future__ import annotations

from bench.benchmarks.train_static import IGNORED, Batch, Training
from bench.model import hashing, work


class DynamicTraining(Training):
    """Times the same steps over batches [batch, longest]: inputs padded with 0, targets with -1."""

    def inputs(self, index: int) -> Batch:
        """Sequences of `shortest` to `sequence` ids, a length drawn for each."""
        workload = self.workload
        assert workload.batch
        assert workload.sequence
        assert workload.shortest
        span = workload.sequence - workload.shortest + 1
        drawn = hashing.integers(f"lengths/{index}", workload.seed, (workload.batch,), span, "cpu")
        lengths = [workload.shortest + int(length) for length in drawn]
        ids = self.ids(index, max(lengths) + 1)
        tokens, targets = ids[:, :-1].clone(), ids[:, 1:].clone()
        for row, length in enumerate(lengths):
            tokens[row, length:] = 0
            targets[row, length:] = IGNORED
        return tokens, targets

    def work(self, shapes: list[list[int]]) -> dict[str, int | None]:
        """Of all the timed steps together, padding included."""
        flops = sum(work.training_flops(self.config, batch, time) for batch, time in shapes)
        return {"flops": flops, "bytes": None, "tokens": sum(batch * time for batch, time in shapes)}


build = DynamicTraining
