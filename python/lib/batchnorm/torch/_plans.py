"""Plans that were measured on a device."""

from batchnorm import _native


def use_plans(path):
    """Takes the plans of the table in this file from now on, on the CUDA device that it was measured on.

    `batchnorm tune` makes such tables. The environment variable BATCHNORM_PLANS does the same from the beginning. A graph that was
    captured before keeps the plans that it has.

    Raises OSError where the file cannot be read, and ValueError where it is no table, or one of another device or another version of
    this package than the one that it is used on: at once for devices that were used before, and else at their first operation.
    """
    _native.use_plans(path)
