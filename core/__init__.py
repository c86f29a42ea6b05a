"""The minimal core under p1, p2 and p3: images, batched augmentation, checkpoints, runs, devices. No model, no loss."""

import importlib.util as _util
import sys as _sys


def require(*modules: str) -> None:
    """End the program with one line and status 2 if this Python lacks one of ``modules``."""
    if missing := [name for name in modules if _util.find_spec(name) is None]:
        _sys.stderr.write(
            f"this Python ({_sys.executable}) has no {', '.join(missing)}; "
            "install what is needed with: pip install -r requirements.txt (or use .venv: . .venv/bin/activate)\n"
        )
        _sys.exit(2)


require("torch", "torchvision", "numpy", "PIL", "tqdm")
