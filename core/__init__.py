"""The minimal core under p1, p2 and p3: images, batched augmentation, checkpoints, runs, devices. No model, no loss."""

import importlib.util as _util
import sys as _sys

if _missing := [name for name in ("torch", "torchvision", "numpy", "PIL", "tqdm") if _util.find_spec(name) is None]:
    _sys.stderr.write(
        f"this Python ({_sys.executable}) has no {', '.join(_missing)}; "
        "install what is needed with: pip install -r requirements.txt (or use .venv: . .venv/bin/activate)\n"
    )
    _sys.exit(2)
