"""maturin's build backend, with the kernels where BATCHNORM_CUDA asks for them."""

import os

if os.environ.get("BATCHNORM_CUDA", "0") not in ("", "0"):
    os.environ["MATURIN_PEP517_ARGS"] = " ".join([os.environ.get("MATURIN_PEP517_ARGS", ""), "--features cuda"]).strip()

from maturin import *  # noqa: E402,F401,F403
from maturin import (  # noqa: E402,F401
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
