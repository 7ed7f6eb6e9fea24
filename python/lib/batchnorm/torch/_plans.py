"""How operations are planned on CUDA devices."""

from batchnorm import _native


def use_plans(path):
    """Takes the plans of the table in this file from now on, on the CUDA device that it was measured on.

    `batchnorm tune` makes such tables. The environment variable BATCHNORM_PLANS does the same from the beginning. A graph that was
    captured before keeps the plans that it has.

    Raises OSError where the file cannot be read, and ValueError where it is no table, or one of another device or another version of
    this package than the one that it is used on: at once for devices that were used before, and else at their first operation.
    """
    _native.use_plans(path)


def set_max_sms(count):
    """Plans for at most `count` multiprocessors of every CUDA device from now on, or for all of them with `None`.

    That leaves the others to kernels of other streams that wait, as NCCL's do: operations whose CTAs wait for each other then fit beside
    them. A table of plans (`use_plans`), which is for the whole device, is not used meanwhile. A graph that was captured before keeps
    its plans.

    Raises ValueError for a `count` below 1, and RuntimeError for one where this build has no CUDA kernels.
    """
    is_number = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and not (is_number and 1 <= count < 2**32):
        raise ValueError(f"expected a number of multiprocessors from 1 on, or None, got {count!r}")
    _native.set_max_sms(count)
