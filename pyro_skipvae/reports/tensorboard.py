"""Scalars, the rate of each dimension and grids of images for TensorBoard, through tensorboardX."""

import math

import torch
from tensorboardX import SummaryWriter

NOT_DRAWN = ("epoch", "steps")


class TensorBoard:
    """Event files in `folder`, for a run that has taken `steps` steps before: 0, or those of the checkpoint resumed.

    What an earlier process wrote for later steps is marked as void, so that no step appears twice. `epoch` is called
    once an epoch and leaves everything in the file; it raises OSError, with the folder, where that cannot be written.
    """

    def __init__(self, folder, *, steps=0):
        # The name of an event file holds the time in seconds: two within one second would be the same file.
        self.writer = SummaryWriter(str(folder), purge_step=steps + 1, filename_suffix=f".{steps:012d}")
        self.folder, events = folder, self.writer.file_writer.event_writer
        # Its thread dies where the disk is full, and its queue then blocks the training; nor does a flush wait for the queue.
        events._worker.stop()
        events.add_event = events._ev_writer.write_event

    def epoch(self, metrics, *, rate_per_dimension=None, images=None):
        """Write the line of metrics.jsonl of an epoch, rates (D,) in nats, and images {name: (N, H, W) or (N, C, H, W)}.

        A number that is None or not finite is left out, and so are rates that are not.
        """
        try:
            self._epoch(metrics, rate_per_dimension, images)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self.folder)) from None

    def _epoch(self, metrics, rate_per_dimension, images):
        step = metrics["steps"]
        for name, value in metrics.items():
            if name not in NOT_DRAWN and value is not None and math.isfinite(value):
                self.writer.add_scalar(name, value, step)
        rates = torch.as_tensor([] if rate_per_dimension is None else rate_per_dimension, dtype=torch.float64).detach().cpu()
        if len(rates) and rates.isfinite().all():  # a histogram of nothing raises
            rates = rates.sort(descending=True).values
            self.writer.add_histogram("rate_per_dimension", rates.numpy(), step)
            for rank, value in enumerate(rates.tolist(), 1):
                self.writer.add_scalar(f"rate_by_rank/{rank:03d}", value, step)
        for name, batch in (images or {}).items():
            self.writer.add_image(name, grid(batch).numpy(), step)
        self.writer.flush()

    def close(self):
        self.writer.close()


def grid(images, *, columns=8):
    """One image (C, rows, columns) of images (N, H, W) or (N, C, H, W) in [0, 1], with a grey line between them."""
    images = torch.as_tensor(images).detach().cpu().float().clamp(0, 1)
    images = images.unsqueeze(1) if images.dim() == 3 else images
    count, columns = len(images), min(columns, len(images))
    blank = images.new_full((-count % columns, *images.shape[1:]), 0.5)
    framed = torch.nn.functional.pad(torch.cat([images, blank]), (0, 1, 0, 1), value=0.5)
    return framed.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
