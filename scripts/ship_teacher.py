"""Put the teacher of a run directory into the package, as safetensors: scripts/ship_teacher.py RUN_DIR [PATCH_SIZE].

The file in us_anomaly/teachers/ is what `teacher.checkpoint=builtin` takes. Its header says what it was made from.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from us_anomaly.run_dir import RunDir
from us_anomaly.run_dir.atomic import read_tensors


def main() -> None:
    run_dir = RunDir(sys.argv[1])
    patch_size = int(sys.argv[2]) if len(sys.argv) > 2 else 33
    state = read_tensors(run_dir.teacher(patch_size))
    target = Path(__file__).parents[1] / "us_anomaly" / "teachers" / f"p{patch_size}.safetensors"
    header = {key: str(state[key]) for key in ("patch_size", "descriptor_dim", "width", "explained_variance")}
    header["settings"] = json.dumps(state["settings"])
    target.parent.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state["network"].items()}, target, metadata=header)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB, explained variance {state['explained_variance']:.3f}")


if __name__ == "__main__":
    main()
